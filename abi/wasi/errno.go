package wasi

import (
	"strconv"

	"forgeone.dev/forgeone/abi"
)

// errno is an error number of preview 1, which are not those of Linux. As an
// error it is what the guest gets; every other error ends the guest.
type errno uint16

const (
	success      errno = 0
	eagain       errno = 6
	ebadf        errno = 8
	efault       errno = 21
	eilseq       errno = 25
	einval       errno = 28
	eio          errno = 29
	eisdir       errno = 31
	emfile       errno = 33
	enametoolong errno = 37
	enoent       errno = 44
	enotdir      errno = 54
	enotsock     errno = 57
	enotsup      errno = 58
	eoverflow    errno = 61
	espipe       errno = 70
	enotcapable  errno = 76
)

func (e errno) Error() string { return "errno " + strconv.Itoa(int(e)) + " of preview 1" }

// errnos are the numbers of preview 1 for those of Linux, which the codes of
// [abi.SyscallError] are.
var errnos = map[int32]errno{
	1:   63, // EPERM
	2:   enoent,
	3:   71, // ESRCH
	4:   27, // EINTR
	5:   eio,
	7:   1, // E2BIG
	9:   ebadf,
	11:  eagain,
	12:  48, // ENOMEM
	13:  2,  // EACCES
	14:  efault,
	16:  10, // EBUSY
	17:  20, // EEXIST
	18:  75, // EXDEV
	20:  enotdir,
	21:  eisdir,
	22:  einval,
	23:  41, // ENFILE
	24:  emfile,
	26:  74, // ETXTBSY
	27:  22, // EFBIG
	28:  51, // ENOSPC
	29:  espipe,
	30:  69, // EROFS
	31:  34, // EMLINK
	32:  64, // EPIPE
	36:  enametoolong,
	38:  52, // ENOSYS
	39:  55, // ENOTEMPTY
	40:  32, // ELOOP
	75:  eoverflow,
	84:  eilseq,
	88:  enotsock,
	95:  enotsup,
	98:  3,  // EADDRINUSE
	99:  4,  // EADDRNOTAVAIL
	101: 40, // ENETUNREACH
	103: 13, // ECONNABORTED
	104: 15, // ECONNRESET
	107: 53, // ENOTCONN
	110: 73, // ETIMEDOUT
	111: 14, // ECONNREFUSED
	113: 23, // EHOSTUNREACH
	116: 72, // ESTALE
	122: 19, // EDQUOT
}

// errnoOf is the errno for an effect that failed.
func errnoOf(e *abi.SyscallError) errno {
	if n, ok := errnos[e.Code]; ok {
		return n
	}
	return eio
}
