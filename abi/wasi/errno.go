package wasi

import "forgeone.dev/forgeone/abi"

// errno is an error number of preview 1, which are not those of Linux.
type errno uint16

const (
	success     errno = 0
	ebadf       errno = 8
	eexist      errno = 20
	efault      errno = 21
	efbig       errno = 22
	eintr       errno = 27
	einval      errno = 28
	eio         errno = 29
	eisdir      errno = 31
	emfile      errno = 33
	enoent      errno = 44
	enospc      errno = 51
	enosys      errno = 52
	enotdir     errno = 54
	enotsup     errno = 58
	eperm       errno = 63
	erofs       errno = 69
	etimedout   errno = 73
	enotcapable errno = 76
)

// errnoOf is the errno for an effect that failed.
func errnoOf(e *abi.SyscallError) errno {
	switch e.Code {
	case abi.CodePermission:
		return eperm
	case abi.CodeNotFound:
		return enoent
	case abi.CodeInterrupted:
		return eintr
	case abi.CodeBadHandle:
		return ebadf
	case abi.CodeExists:
		return eexist
	case abi.CodeNotDir:
		return enotdir
	case abi.CodeIsDir:
		return eisdir
	case abi.CodeInvalid:
		return einval
	case abi.CodeTooMany:
		return emfile
	case abi.CodeTooLarge:
		return efbig
	case abi.CodeNoSpace:
		return enospc
	case abi.CodeReadOnly:
		return erofs
	case abi.CodeUnsupported:
		return enotsup
	case abi.CodeTimeout:
		return etimedout
	}
	return eio
}
