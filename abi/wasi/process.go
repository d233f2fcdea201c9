package wasi

import (
	"context"
	"slices"

	"forgeone.dev/forgeone/abi"
)

// Config is what a guest finds when it starts. It is read-only once a process
// was made of it. The zero value has no arguments, no environment and no
// directories.
type Config struct {
	Args     []string // the program's name first
	Env      []string // "NAME=value"
	Preopens []string // guest paths of the directories it has open from the start, absolute and clean
	// Terminals says which of standard input, output and error are to be taken
	// for terminals.
	Terminals [3]bool
}

// Process is what preview 1 keeps of one guest between its calls: its
// descriptors. It lives as long as the guest's memory, which has the numbers of
// them, and is used by one goroutine at a time. The zero value has no more than
// the standard streams.
type Process struct {
	config *Config
	fds    []*descriptor // by number, nil for a free one; nil before the first use
	ahead  *ahead        // what was read of standard input to find whether there is something

	// Reused from one read or write to the next.
	vectors, buffer []byte
	pieces          []vector
}

// NewProcess makes the process of a guest that is about to start.
func NewProcess(c *Config) *Process { return &Process{config: c} }

// Capture is the process as it stands, for guests whose memory is a copy of this
// one's. It is false if the process holds what is one guest's alone: an open
// file or directory, or standard input that was read ahead.
func (p *Process) Capture() (*Process, bool) {
	if p.ahead != nil || slices.ContainsFunc(p.fds, func(d *descriptor) bool { return d != nil && d.handle != 0 }) {
		return nil, false
	}
	return &Process{config: p.config, fds: copied(p.fds)}, true
}

// Become makes the process stand as a captured one does.
func (p *Process) Become(captured *Process) {
	p.config, p.fds, p.ahead = captured.config, copied(captured.fds), nil
}

func copied(fds []*descriptor) []*descriptor {
	if fds == nil {
		return nil
	}
	all, out := make([]descriptor, len(fds)), make([]*descriptor, len(fds))
	for i, d := range fds {
		if d != nil {
			all[i] = *d
			out[i] = &all[i]
		}
	}
	return out
}

type processKey struct{}

// WithProcess gives the functions of preview 1 the process of the guest that
// calls them. A guest whose context carries none has at each call one of its
// own, with the standard streams alone.
func WithProcess(ctx context.Context, p *Process) context.Context {
	return context.WithValue(ctx, processKey{}, p)
}

// ProcessFrom is the process that ctx carries, or nil.
func ProcessFrom(ctx context.Context) *Process {
	p, _ := ctx.Value(processKey{}).(*Process)
	return p
}

// maxDescriptors is how many a guest may hold. The gate allows it fewer handles.
const maxDescriptors = abi.MaxHandles + 64

// descriptor is an open file, directory or standard stream.
type descriptor struct {
	typ              fileType
	stream           string     // of stdio; empty for what is of the file system
	path             string     // absolute guest path that it was opened by
	preopen          bool       // the guest finds it by its number
	handle           abi.Handle // 0 for a stream, and for a preopen that none was needed for yet
	base, inheriting rights
	flags            fdFlags
}

// descriptors are the open descriptors by their number.
func (p *Process) descriptors() []*descriptor {
	if p.fds != nil {
		return p.fds
	}
	if p.config == nil {
		p.config = new(Config)
	}
	for i, stream := range []string{"stdin", "stdout", "stderr"} {
		d := &descriptor{stream: stream, base: stdioRights | rightWrite}
		if i == 0 {
			d.base = stdioRights | rightRead
		}
		if p.config.Terminals[i] {
			d.typ = typeCharacterDevice
		}
		p.fds = append(p.fds, d)
	}
	for _, path := range p.config.Preopens {
		p.fds = append(p.fds, &descriptor{typ: typeDirectory, path: path, preopen: true, base: dirRights, inheriting: dirRights | fileRights})
	}
	return p.fds
}

// descriptor is the one of a number. Errors: EBADF if there is none; ENOTCAPABLE
// if it lacks one of the rights.
func (p *Process) descriptor(fd uint64, need rights) (*descriptor, error) {
	fds, n := p.descriptors(), uint32(fd)
	if uint64(n) >= uint64(len(fds)) || fds[n] == nil {
		return nil, ebadf
	}
	if fds[n].base&need != need {
		return nil, enotcapable
	}
	return fds[n], nil
}

// file is the descriptor of a regular file. Errors: those of descriptor, and
// EISDIR, ESPIPE for what is not one.
func (p *Process) file(fd uint64, need rights) (*descriptor, error) {
	d, err := p.descriptor(fd, 0)
	switch {
	case err != nil:
		return nil, err
	case d.typ == typeDirectory:
		return nil, eisdir
	case d.stream != "":
		return nil, espipe
	}
	return p.descriptor(fd, need)
}

// directory is the descriptor of a directory. Errors: those of descriptor, and
// ENOTDIR for what is not one.
func (p *Process) directory(fd uint64, need rights) (*descriptor, error) {
	d, err := p.descriptor(fd, 0)
	switch {
	case err != nil:
		return nil, err
	case d.typ != typeDirectory:
		return nil, enotdir
	}
	return p.descriptor(fd, need)
}

// free is the lowest number that is free. Error: EMFILE.
func (p *Process) free() (int, error) {
	fds := p.descriptors()
	for i, d := range fds {
		if d == nil {
			return i, nil
		}
	}
	if len(fds) >= maxDescriptors {
		return 0, emfile
	}
	return len(fds), nil
}

// put makes a descriptor that of a free number.
func (p *Process) put(n int, d *descriptor) {
	if n == len(p.fds) {
		p.fds = append(p.fds, d)
		return
	}
	p.fds[n] = d
}
