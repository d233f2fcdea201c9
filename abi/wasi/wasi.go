// Package wasi is wasi_snapshot_preview1, all of it, for guests of every
// engine: each function that has an effect is a syscall through the gate of the
// call that the guest serves, decided and recorded like any other. docs/abi.md
// has the table.
//
// What a guest holds between its calls is a [Process]: arguments, environment,
// and descriptors with their rights. Its files are those of the mounts of the
// subject it runs as, found by the paths of its preopened directories. What it
// does through a descriptor of a directory, it does by the path that the
// directory was opened by.
//
// What the gate denies is ENOTCAPABLE to the guest, and the log says why. What
// it quarantines ends the guest.
//
// The specification is
// https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md.
package wasi

import (
	"cmp"
	"context"
	"fmt"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// ModuleName is the import module of preview 1.
const ModuleName = "wasi_snapshot_preview1"

// ExitError is how a guest ends by proc_exit.
type ExitError struct {
	Code uint32
}

func (e *ExitError) Error() string { return fmt.Sprintf("the guest exited with code %d", e.Code) }

// HostModule is the module that guests import. It holds no state and is the
// same for every caller; it is not to be changed.
func HostModule() *engines.HostModule { return hostModule }

// frame is one call of a function of preview 1.
type frame struct {
	ctx  context.Context // of this call alone
	p    *Process
	mem  engines.Memory
	args []uint64 // an i32 in the low half
}

// function is one function of preview 1. All but proc_exit return an errno.
type function struct {
	name   string
	params string // "i" is an i32, "I" an i64
	run    func(x frame) error
}

var functions = []function{
	{"args_get", "ii", argsGet},
	{"args_sizes_get", "ii", argsSizesGet},
	{"clock_res_get", "ii", clockResGet},
	{"clock_time_get", "iIi", clockTimeGet},
	{"environ_get", "ii", environGet},
	{"environ_sizes_get", "ii", environSizesGet},
	{"fd_advise", "iIIi", fdAdvise},
	{"fd_allocate", "iII", fdAllocate},
	{"fd_close", "i", fdClose},
	{"fd_datasync", "i", fdDatasync},
	{"fd_fdstat_get", "ii", fdFdstatGet},
	{"fd_fdstat_set_flags", "ii", fdFdstatSetFlags},
	{"fd_fdstat_set_rights", "iII", fdFdstatSetRights},
	{"fd_filestat_get", "ii", fdFilestatGet},
	{"fd_filestat_set_size", "iI", fdFilestatSetSize},
	{"fd_filestat_set_times", "iIIi", fdFilestatSetTimes},
	{"fd_pread", "iiiIi", fdPread},
	{"fd_prestat_dir_name", "iii", fdPrestatDirName},
	{"fd_prestat_get", "ii", fdPrestatGet},
	{"fd_pwrite", "iiiIi", fdPwrite},
	{"fd_read", "iiii", fdRead},
	{"fd_readdir", "iiiIi", fdReaddir},
	{"fd_renumber", "ii", fdRenumber},
	{"fd_seek", "iIii", fdSeek},
	{"fd_sync", "i", fdSync},
	{"fd_tell", "ii", fdTell},
	{"fd_write", "iiii", fdWrite},
	{"path_create_directory", "iii", pathCreateDirectory},
	{"path_filestat_get", "iiiii", pathFilestatGet},
	{"path_filestat_set_times", "iiiiIIi", pathFilestatSetTimes},
	{"path_link", "iiiiiii", pathLink},
	{"path_open", "iiiiiIIii", pathOpen},
	{"path_readlink", "iiiiii", pathReadlink},
	{"path_remove_directory", "iii", pathRemoveDirectory},
	{"path_rename", "iiiiii", pathRename},
	{"path_symlink", "iiiii", pathSymlink},
	{"path_unlink_file", "iii", pathUnlinkFile},
	{"poll_oneoff", "iiii", pollOneoff},
	{"proc_exit", "i", procExit},
	{"proc_raise", "i", procRaise},
	{"random_get", "ii", randomGet},
	{"sched_yield", "", schedYield},
	{"sock_accept", "iii", sock},
	{"sock_recv", "iiiiii", sock},
	{"sock_send", "iiiii", sock},
	{"sock_shutdown", "ii", sock},
}

var hostModule = link(functions)

func link(functions []function) *engines.HostModule {
	m := &engines.HostModule{Functions: make([]engines.HostFunction, len(functions))}
	for i, f := range functions {
		results := "i"
		if f.name == "proc_exit" {
			results = ""
		}
		m.Functions[i] = engines.HostFunction{
			Name: f.name,
			Type: engines.FuncType{Params: guest.Types(f.params), Results: guest.Types(results)},
			Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
				mem := caller.Memory()
				if mem == nil {
					return guest.ErrNoMemory
				}
				switch err := f.run(frame{ctx, cmp.Or(ProcessFrom(ctx), new(Process)), mem, stack}).(type) { //nolint:errorlint // an errno is never wrapped
				case nil:
					if results != "" {
						stack[0] = uint64(success)
					}
				case errno:
					stack[0] = uint64(err)
				default:
					return err
				}
				return nil
			},
		}
	}
	return m
}

// syscall asks the gate. The error is what the guest is to get, or ends it.
func (x frame) syscall(name string, handle abi.Handle, payload []byte, args ...string) ([]byte, error) {
	res, err := guest.Syscall(x.ctx, name, args, handle, payload)
	switch {
	case err != nil:
		return nil, err
	case res.Status == abi.Success:
		return res.Data, nil
	case res.Status == abi.Failure:
		return nil, errnoOf(res.Err)
	}
	return nil, enotcapable
}

// do asks the gate for an effect that has nothing to tell.
func (x frame) do(name string, handle abi.Handle, args ...string) error {
	_, err := x.syscall(name, handle, nil, args...)
	return err
}
