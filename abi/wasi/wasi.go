// Package wasi is wasi_snapshot_preview1, all of it, for guests of every
// engine: each function that has an effect is a syscall through the gate of the
// call that the guest serves, decided and recorded like any other.
// docs/conformance.md has the table.
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
	"slices"
	"strings"

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

	syscalls string // that it is, apart by spaces: each of them, or one or another
}

// Syscalls are what a function of preview 1 may ask of the gate, in name order;
// none for one that has no effect, and for a name that is not one.
func Syscalls(name string) []string {
	i := slices.IndexFunc(functions, func(f function) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return strings.Fields(functions[i].syscalls)
}

var functions = []function{
	{"args_get", "ii", argsGet, ""},
	{"args_sizes_get", "ii", argsSizesGet, ""},
	{"clock_res_get", "ii", clockResGet, ""},
	{"clock_time_get", "iIi", clockTimeGet, "time_get"},
	{"environ_get", "ii", environGet, ""},
	{"environ_sizes_get", "ii", environSizesGet, ""},
	{"fd_advise", "iIIi", fdAdvise, ""},
	{"fd_allocate", "iII", fdAllocate, "file_truncate"},
	{"fd_close", "i", fdClose, "file_close"},
	{"fd_datasync", "i", fdDatasync, "file_sync"},
	{"fd_fdstat_get", "ii", fdFdstatGet, ""},
	{"fd_fdstat_set_flags", "ii", fdFdstatSetFlags, ""},
	{"fd_fdstat_set_rights", "iII", fdFdstatSetRights, ""},
	{"fd_filestat_get", "ii", fdFilestatGet, "file_stat"},
	{"fd_filestat_set_size", "iI", fdFilestatSetSize, "file_truncate"},
	{"fd_filestat_set_times", "iIIi", fdFilestatSetTimes, "file_times"},
	{"fd_pread", "iiiIi", fdPread, "file_read"},
	{"fd_prestat_dir_name", "iii", fdPrestatDirName, ""},
	{"fd_prestat_get", "ii", fdPrestatGet, ""},
	{"fd_pwrite", "iiiIi", fdPwrite, "file_write"},
	{"fd_read", "iiii", fdRead, "file_read stdio_read"},
	{"fd_readdir", "iiiIi", fdReaddir, "file_list file_open"},
	{"fd_renumber", "ii", fdRenumber, "file_close"},
	{"fd_seek", "iIii", fdSeek, "file_seek"},
	{"fd_sync", "i", fdSync, "file_sync"},
	{"fd_tell", "ii", fdTell, "file_seek"},
	{"fd_write", "iiii", fdWrite, "file_write stdio_write"},
	{"path_create_directory", "iii", pathCreateDirectory, "file_mkdir"},
	{"path_filestat_get", "iiiii", pathFilestatGet, "file_stat"},
	{"path_filestat_set_times", "iiiiIIi", pathFilestatSetTimes, "file_times"},
	{"path_link", "iiiiiii", pathLink, "file_link"},
	{"path_open", "iiiiiIIii", pathOpen, "file_open"},
	{"path_readlink", "iiiiii", pathReadlink, "file_readlink"},
	{"path_remove_directory", "iii", pathRemoveDirectory, "file_remove"},
	{"path_rename", "iiiiii", pathRename, "file_rename"},
	{"path_symlink", "iiiii", pathSymlink, "file_symlink"},
	{"path_unlink_file", "iii", pathUnlinkFile, "file_remove"},
	{"poll_oneoff", "iiii", pollOneoff, "stdio_read time_get time_sleep"},
	{"proc_exit", "i", procExit, ""},
	{"proc_raise", "i", procRaise, ""},
	{"random_get", "ii", randomGet, "random_get"},
	{"sched_yield", "", schedYield, ""},
	{"sock_accept", "iii", sock, ""},
	{"sock_recv", "iiiiii", sock, ""},
	{"sock_send", "iiiii", sock, ""},
	{"sock_shutdown", "ii", sock, ""},
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
	return x.syscallInto(nil, name, handle, payload, args...)
}

// syscallInto is syscall with room for what it yields.
func (x frame) syscallInto(room []byte, name string, handle abi.Handle, payload []byte, args ...string) ([]byte, error) {
	res, err := guest.SyscallInto(x.ctx, room, name, args, handle, payload)
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
