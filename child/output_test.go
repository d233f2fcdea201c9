package child

import (
	"strings"
	"testing"
	"unicode"

	"github.com/hashicorp/go-hclog"
)

// FuzzParse holds that no line of a child's can break a line of the log, steer
// a terminal, or name a level that there is none.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "hello", "{", `{"@level":"error","@message":"x","k":1}`, `{"@level":"off","@message":"\u001b[2J\n","a\nb":["c"]}`,
		`{"@level":7,"@message":null}`, "\xff\xfe", `{"@level":"warn","@message":"","k":{"a":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		level, message, fields := parse(s)
		if level < hclog.Trace || level > hclog.Off {
			t.Errorf("level %d", level)
		}
		if len(fields)%2 != 0 || len(fields) > 2*maxFields {
			t.Errorf("%d fields", len(fields))
		}
		for _, v := range append(fields, message) {
			if strings.ContainsFunc(v.(string), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is not plain", v)
			}
		}
	})
}

func TestLastWords(t *testing.T) {
	o := newOutput(hclog.NewNullLogger(), hclog.Warn)
	if got := o.lastWords(); got != "it wrote nothing" {
		t.Errorf("got %q", got)
	}
	o.copy(strings.NewReader(`{"@level":"error","@message":"bind","error":"in use"}` + "\n"))
	if got, want := o.lastWords(), "it wrote last: bind error=in use"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	o.copy(strings.NewReader("one\npanic: boom\n\ngoroutine 1:\n" + strings.Repeat("frame\n", 20) + strings.Repeat("z", 3*maxLine) + "\nlast without end"))
	o.close()
	o.line("too late")
	got := o.lastWords()
	for _, want := range []string{"panic: boom | …", "frame | frame", "zzz…", "| last without end"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if strings.Contains(got, "too late") || len(got) > 2000 {
		t.Errorf("got %q", got)
	}
}

// A signal is named with what led to it, however long the account of it is.
func TestSignal(t *testing.T) {
	o := newOutput(hclog.NewNullLogger(), hclog.Warn)
	o.copy(strings.NewReader("SIGNING: done\nbegun\nmalloc(): corrupted top size\nSIGABRT: abort\nPC=0x1 m=0\n" + strings.Repeat("rax 0x0\n", 20)))
	if got, want := o.lastWords(), "it wrote last: begun | malloc(): corrupted top size | SIGABRT: abort | … | rax"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	o.line("SIGTERM: terminated")
	if got, want := o.lastWords(), "rax 0x0 | SIGTERM: terminated"; !strings.HasSuffix(got, want) || strings.Contains(got, "…") {
		t.Errorf("got %q, want %q at its end and nothing before", got, want)
	}
	o.line("Signal: none")
	o.line("SIG nal: none")
	if len(o.cause) != 3 || o.cause[2] != "SIGTERM: terminated" {
		t.Errorf("the cause is %q", o.cause)
	}
}
