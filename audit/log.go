package audit

import (
	"context"
	"errors"
	"time"
)

// ErrClosed is returned by every use of a log after Close.
var ErrClosed = errors.New("audit: log is closed")

// ErrLocked is returned by Open when another process writes the directory.
var ErrLocked = errors.New("audit: log is in use")

// Durability says what an acknowledged record has survived.
type Durability int

// Durabilities.
const (
	Process Durability = iota // kill -9 of the process: the zero value
	Disk                      // loss of power: Append waits for the disk
)

// Options are what a log is opened with.
type Options struct {
	Dir  string // directory of the log, made if missing
	Name string // origin of the log in its checkpoints, such as "forgeone/edge-1"
	Key  string // signer key text, as GenerateKey returns it

	// AllowGenerate lets Open make a key in the directory when Key is empty.
	// Such a key is weak evidence: who owns the directory can rewrite the log.
	AllowGenerate bool

	SegmentSize        int64         // bytes; default 16 MiB
	CheckpointEvery    uint64        // records; default 65,536
	CheckpointInterval time.Duration // default one second
	Durability         Durability
	Clock              func() time.Time // default time.Now
}

// Log is an open log.
type Log struct{}

// Head is where a log stands.
type Head struct {
	Records        uint64 // records in the log
	LastSeq        uint64 // sequence number of the last record; meaningless when Records is 0
	Root           string // Merkle root over all records, base64
	CheckpointSize uint64 // records covered by the last signed checkpoint
	Healthy        error  // why the log refuses records, nil when it takes them
}

// Open opens or creates the log in o.Dir.
func Open(o Options) (*Log, error) { return nil, errors.New("audit: not built yet") }

// Append writes one record and returns its sequence number.
func (l *Log) Append(r *Record) (uint64, error) { return 0, ErrClosed }

// Sync waits until the record with number seq is on disk.
func (l *Log) Sync(ctx context.Context, seq uint64) error { return ErrClosed }

// Head reports where the log stands.
func (l *Log) Head() Head { return Head{Healthy: ErrClosed} }

// Close signs a last checkpoint and closes the log.
func (l *Log) Close() error { return ErrClosed }
