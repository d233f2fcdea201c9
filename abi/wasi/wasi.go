// Package wasi is wasi_snapshot_preview1 for guests of every engine: each
// function that has an effect is a syscall through the gate of the call that
// the guest serves, decided and recorded like any other.
//
// What is here is what language runtimes need to run at all, Go's foremost: the
// clocks, sleeping, randomness, standard output and error, and the way out.
// Arguments, environment and preopened directories are empty. Every other
// function of preview 1 exists with its type and answers ENOSYS, so that
// modules link; files and sockets are reached through the guest's own ABI.
//
// What the gate denies is ENOTCAPABLE to the guest. What it quarantines ends
// the guest.
//
// The specification is
// https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md.
package wasi

import (
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

// function is one function of preview 1. All but proc_exit return an errno.
type function struct {
	name   string
	params string // "i" is an i32, "I" an i64
	run    func(ctx context.Context, mem engines.Memory, args []uint64) (errno, error)
}

var functions = []function{
	{"args_get", "ii", nothing},
	{"args_sizes_get", "ii", noSizes},
	{"clock_res_get", "ii", missing},
	{"clock_time_get", "iIi", clockTimeGet},
	{"environ_get", "ii", nothing},
	{"environ_sizes_get", "ii", noSizes},
	{"fd_advise", "iIIi", missing},
	{"fd_allocate", "iII", missing},
	{"fd_close", "i", missing},
	{"fd_datasync", "i", missing},
	{"fd_fdstat_get", "ii", missing},
	{"fd_fdstat_set_flags", "ii", missing},
	{"fd_fdstat_set_rights", "iII", missing},
	{"fd_filestat_get", "ii", missing},
	{"fd_filestat_set_size", "iI", missing},
	{"fd_filestat_set_times", "iIIi", missing},
	{"fd_pread", "iiiIi", missing},
	{"fd_prestat_dir_name", "iii", noPreopen},
	{"fd_prestat_get", "ii", noPreopen},
	{"fd_pwrite", "iiiIi", missing},
	{"fd_read", "iiii", missing},
	{"fd_readdir", "iiiIi", missing},
	{"fd_renumber", "ii", missing},
	{"fd_seek", "iIii", missing},
	{"fd_sync", "i", missing},
	{"fd_tell", "ii", missing},
	{"fd_write", "iiii", fdWrite},
	{"path_create_directory", "iii", missing},
	{"path_filestat_get", "iiiii", missing},
	{"path_filestat_set_times", "iiiiIIi", missing},
	{"path_link", "iiiiiii", missing},
	{"path_open", "iiiiiIIii", missing},
	{"path_readlink", "iiiiii", missing},
	{"path_remove_directory", "iii", missing},
	{"path_rename", "iiiiii", missing},
	{"path_symlink", "iiiii", missing},
	{"path_unlink_file", "iii", missing},
	{"poll_oneoff", "iiii", pollOneoff},
	{"proc_exit", "i", procExit},
	{"proc_raise", "i", missing},
	{"random_get", "ii", randomGet},
	{"sched_yield", "", nothing},
	{"sock_accept", "iii", missing},
	{"sock_recv", "iiiiii", missing},
	{"sock_send", "iiiii", missing},
	{"sock_shutdown", "ii", missing},
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
				code, err := f.run(ctx, mem, stack)
				if err == nil && results != "" {
					stack[0] = uint64(code)
				}
				return err
			},
		}
	}
	return m
}

func nothing(context.Context, engines.Memory, []uint64) (errno, error)   { return success, nil }
func missing(context.Context, engines.Memory, []uint64) (errno, error)   { return enosys, nil }
func noPreopen(context.Context, engines.Memory, []uint64) (errno, error) { return ebadf, nil }

// noSizes is args_sizes_get and environ_sizes_get: no strings, of no bytes.
func noSizes(_ context.Context, mem engines.Memory, args []uint64) (errno, error) {
	if code := putUint32(mem, uint32(args[0]), 0); code != success {
		return code, nil
	}
	return putUint32(mem, uint32(args[1]), 0), nil
}

func procExit(_ context.Context, _ engines.Memory, args []uint64) (errno, error) {
	return success, &ExitError{Code: uint32(args[0])}
}

// syscall asks the gate. What the guest is to see of a result that is no
// success is its errno.
func syscall(ctx context.Context, name string, args []string, payload []byte) ([]byte, errno, error) {
	res, err := guest.Syscall(ctx, name, args, 0, payload)
	switch {
	case err != nil:
		return nil, 0, err
	case res.Status == abi.Success:
		return res.Data, success, nil
	case res.Status == abi.Failure:
		return nil, errnoOf(res.Err), nil
	}
	return nil, enotcapable, nil
}
