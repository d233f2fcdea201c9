// Package audit is the evidence: an append-only log of JSON lines with a
// gap-free sequence, an RFC 6962 Merkle tree over the lines and signed
// checkpoints, and the verifier that trusts none of it.
//
// # Files
//
// A log is a directory:
//
//	00000001.log           lines, in segments that follow one another by name
//	00000007.from-512.log  a segment begun after a crash or a failed disk: from
//	                       record 512 on it supersedes the segments before it
//	checkpoints            signed notes (C2SP tlog-checkpoint), each with an empty
//	                       line after it: origin, number of records, root in base64,
//	                       and "open N SEQ…" where intents were without an answer:
//	                       those named, and any from N on
//	hashes.0, hashes.1, …  hashes of level 0 (the leaves), 8, 16, … of the tree, 32
//	                       bytes each: a copy, made again where it does not fit
//	log.pub                the verifier key
//	key                    the signer key, only if the log made its own
//	damaged-N-BOOT.bin     lines that a loss of power has damaged, cut from the log
//	lock                   the process id of the writer
//
// A segment ends where its lines end, or, while it is in use, in zero bytes.
// The leaf hash of record N is SHA-256 of a zero byte and line N without its
// newline (RFC 6962, section 2.1).
//
// # Lines
//
// A line is a JSON object with the fields of Record in a fixed order, empty
// ones left out: v (1), seq, time (RFC 3339, UTC, nine decimals), mono_ns,
// boot, kind, phase, subject, plugin, container, call, syscall, resources,
// args, decision, effect, rule, reason, policy, score, level, intent, outcome,
// error, duration_ns, count, bytes, digest, trace, details. A record has
// exactly one spelling: no spaces, no needless escapes, and as \uXXXX whatever
// could act on a terminal, hide or reorder text.
//
// # What it proves
//
// Under a checkpoint no line can be changed, left out, added or moved without
// Verify finding it. After the last checkpoint nothing is proved, and Verify
// says how many records that is. Whoever has the key can write any log, and a
// log cut back to an older checkpoint verifies: against these only a key kept
// elsewhere and a checkpoint kept elsewhere help.
package audit

import "time"

// Record is one entry. Callers fill it and keep ownership: the log copies what
// it needs before Append returns. Empty fields are left out of the line.
type Record struct {
	// Seq, Time, Mono and Boot are the log's to fill.
	Seq  uint64        // from 0, no gaps
	Time time.Time     // wall clock, UTC
	Mono time.Duration // monotonic, since the log was opened
	Boot string        // id of this opening of the log

	Kind  Kind
	Phase Phase

	Subject   string // identity id
	Plugin    string
	Container string
	Call      uint64 // plugin call, 0 for none
	Function  string // that was called

	Syscall   string
	Resources []string
	Args      []string // escaped on the line; never secret

	Decision string // allowed, blocked, frozen, quarantined
	Effect   string // "would_block" where a mode let a denied call proceed
	Rule     string
	Reason   string
	Policy   string // digest of the policy graph that decided
	Score    float64
	Level    string

	// Intent is the seq, plus one, of the record that this one belongs to: of
	// the intent for an outcome, of the opening record for a fold or a close.
	// 0 for none. See Closes.
	Intent   uint64
	Outcome  string // ok, failed, interrupted, unknown
	Error    string
	Duration time.Duration
	Count    uint64 // folded repeats that this record stands for
	Bytes    uint64 // payload and result bytes moved
	Digest   string // SHA-256 of a payload or artifact, hexadecimal
	Trace    string // trace id, where the caller has one

	// Details are further facts, written in key order.
	Details map[string]string
}

// Kind says what a record is about.
type Kind string

// Kinds of record.
const (
	KindKernel     Kind = "kernel"     // start, stop, configuration
	KindModule     Kind = "module"     // WASM module load, unload, reload
	KindPlugin     Kind = "plugin"     // plugin lifecycle
	KindCapability Kind = "capability" // capability set of a plugin as it was bound
	KindCall       Kind = "call"       // plugin function called
	KindSyscall    Kind = "syscall"
	KindPolicy     Kind = "policy"     // policy graph loaded or refused
	KindQuarantine Kind = "quarantine" // hold, quarantine, release
	KindAudit      Kind = "audit"      // the log on itself: recovery, reconciled intents
)

// Phase says where in the life of an act a record stands.
type Phase string

// Phases of a record.
const (
	PhaseEvent   Phase = ""        // complete in itself: a denial, a lifecycle event
	PhaseIntent  Phase = "intent"  // about to happen
	PhaseOutcome Phase = "outcome" // what came of an intent
	PhaseOpen    Phase = "open"    // first of a folded run
	PhaseFold    Phase = "fold"    // counts of a folded run since the last; the run goes on
	PhaseClose   Phase = "close"   // last of a folded run, with the counts since the last fold
)

// Outcomes.
const (
	OutcomeOK          = "ok"
	OutcomeFailed      = "failed"
	OutcomeInterrupted = "interrupted"
	OutcomeUnknown     = "unknown" // the kernel ended before it could say
)

// Closes returns the value of Record.Intent for a record that belongs to the
// record with number seq.
func Closes(seq uint64) uint64 { return seq + 1 }
