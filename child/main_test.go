//go:build unix

package child_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"forgeone.dev/forgeone/child"
)

// The test binary is its own child: this variable says which.
const roleEnv = "CHILD_TEST_ROLE"

const cookieKey, cookieValue = "CHILD_TEST_COOKIE", "yes"

// roles are what a child of these tests may be.
var roles = map[string]func(){
	"serve":  func() { serve(nil) },
	"silent": forever,
	"exit": func() {
		fmt.Fprintln(os.Stderr, "cannot open my database")
		os.Exit(3)
	},
	"panic": func() { panic("this is my end") },
	"usage": func() { fmt.Println("usage: frobnicate \x1b[31mFILE"); forever() },
	"endless": func() {
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 64<<10)); err != nil {
				os.Exit(1)
			}
		}
	},
	"tcp":       func() { say("tcp", os.Getenv("ADDRESS"), 1, "grpc") },
	"elsewhere": func() { say("unix", os.Getenv("ADDRESS"), 1, "grpc") },
	"dotdot":    func() { say("unix", socketDir()+"/../other", 1, "grpc") },
	"link": func() {
		link := filepath.Join(socketDir(), "socket")
		if err := os.Symlink(os.Getenv("ADDRESS"), link); err != nil {
			panic(err)
		}
		say("unix", link, 1, "grpc")
	},
	"version": func() { say("unix", filepath.Join(socketDir(), "socket"), 7, "grpc") },
	"netrpc":  func() { say("unix", filepath.Join(socketDir(), "socket"), 1, "netrpc") },
	"mute": func() { // it listens, and never says a word
		l, err := net.Listen("unix", filepath.Join(socketDir(), "socket"))
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		}()
		say("unix", l.Addr().String(), 1, "grpc")
	},
	"plain": func() { // it serves gRPC, without TLS
		l, err := net.Listen("unix", filepath.Join(socketDir(), "socket"))
		if err != nil {
			panic(err)
		}
		go func() { _ = grpc.NewServer().Serve(l) }()
		say("unix", l.Addr().String(), 1, "grpc")
	},
	"env": func() {
		for _, kv := range os.Environ() {
			fmt.Fprintln(os.Stderr, "env "+strings.ReplaceAll(kv, "\n", " "))
		}
		serve(nil)
	},
	"inherit": func() {
		in, err := io.ReadAll(os.Stdin)
		fmt.Fprintf(os.Stderr, "stdin %d %v\n", len(in), err)
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
			fmt.Fprintf(os.Stderr, "fd %s %s\n", fd.Name(), to)
		}
		wd, _ := os.Getwd()
		exe, _ := os.Executable()
		fmt.Fprintln(os.Stderr, "cwd", wd)
		fmt.Fprintln(os.Stderr, "exe", exe)
		serve(nil)
	},
	"flood": func() {
		w := bufio.NewWriter(os.Stderr)
		for i := range 20_000 {
			fmt.Fprintln(w, "flood", i)
		}
		fmt.Fprintln(w, strings.Repeat("y", 1<<20))
		_ = w.Flush()
		serve(nil)
	},
	"log": func() {
		l := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, JSONFormat: true, Level: hclog.Trace})
		l.Error("on fire", "where", "here\x1b[2J", "list", []int{1, 2})
		l.Trace("whisper")
		fmt.Fprintln(os.Stderr, "plain\x1b[31m text")
		fmt.Fprintln(os.Stderr, `{"@level":"error","@message":"two\nlines"}`)
		fmt.Fprintln(os.Stderr, `{"@level":"error"`)
		serve(func(*grpc.Server) { // go-plugin has put its pipes in place by the time this is called
			time.AfterFunc(50*time.Millisecond, func() { fmt.Println("printed while serving") })
		})
	},
	"offspring": func() {
		sleeper := exec.Command("sleep", "1000")
		if err := sleeper.Start(); err != nil {
			panic(err)
		}
		fmt.Fprintln(os.Stderr, "offspring", sleeper.Process.Pid)
		serve(nil)
	},
	"leaver": func() { // it stops serving when told to, and stays
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGUSR2)
		serve(func(s *grpc.Server) { go func() { <-told; s.Stop() }() })
		forever()
	},
	"deaf": func() { // it stays when it is asked to end
		serve(nil)
		forever()
	},
	"kernel": func() { // it starts a child, and is killed
		p, err := child.Start(context.Background(), config("serve"))
		if err != nil {
			panic(err)
		}
		fmt.Println(p.PID())
		forever()
	},
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		roles[role]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve is a child as it should be.
func serve(started func(*grpc.Server)) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{1: {"any": nothing{}}},
		Logger:           hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			s := grpc.NewServer(opts...)
			if started != nil {
				started(s)
			}
			return s
		},
	})
}

// nothing is a plugin that serves nothing but its health.
type nothing struct{ plugin.NetRPCUnsupportedPlugin }

func (nothing) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (nothing) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func say(network, address string, version int, protocol string) {
	fmt.Printf("1|%d|%s|%s|%s|\n", version, network, address, protocol)
	forever()
}

func socketDir() string { return os.Getenv("PLUGIN_UNIX_SOCKET_DIR") }

func forever() {
	c := make(chan os.Signal, 1) // a bare select would be a deadlock to the runtime
	signal.Notify(c, syscall.SIGUSR1)
	<-c
}

// executable is the test binary and its checksum.
var executable = sync.OnceValues(func() (path, sum string) {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		panic(err)
	}
	return path, hex.EncodeToString(h.Sum(nil))
})

func config(role string) child.Config {
	path, sum := executable()
	return child.Config{
		Name: role, Path: path, SHA256: sum, Env: map[string]string{roleEnv: role},
		CookieKey: cookieKey, CookieValue: cookieValue, Versions: []int{1, 2},
		StartTimeout: 30 * time.Second,
	}
}

// start starts a child, which is stopped with the test.
func start(t *testing.T, cfg child.Config) *child.Process {
	t.Helper()
	p, err := child.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// journal is a logger that keeps its lines.
type journal struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "plugin-x", Output: j, JSONFormat: true, Level: hclog.Trace})
}

type line map[string]any

func (l line) message() string { s, _ := l["@message"].(string); return s }

func (j *journal) lines(t *testing.T) []line {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var lines []line
	for s := range strings.Lines(j.buf.String()) {
		var l line
		if err := json.Unmarshal([]byte(s), &l); err != nil {
			t.Fatalf("log line %q: %v", s, err)
		}
		lines = append(lines, l)
	}
	return lines
}

// find waits for a line whose message begins with prefix.
func (j *journal) find(t *testing.T, prefix string) line {
	t.Helper()
	var found line
	eventually(t, "a log line that begins with "+prefix, func() bool {
		for _, l := range j.lines(t) {
			if strings.HasPrefix(l.message(), prefix) {
				found = l
				return true
			}
		}
		return false
	})
	return found
}

// eventually waits for what must become true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is still not %s", what)
		}
	}
}
