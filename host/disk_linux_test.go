package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// TestFullDisk fills a real file system under the log of a kernel that serves:
// everything is refused with the reason, calls without effects as well, nobody
// is blamed, and all go on without a restart when there is space again.
func TestFullDisk(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	dir, ballast := filepath.Join(mount, "audit"), filepath.Join(mount, "ballast")
	log, err := audit.Open(audit.Options{Dir: dir, Name: "forgeone/test", AllowGenerate: true, SegmentSize: 2 * audit.MaxLine})
	if err != nil {
		t.Fatal(err)
	}
	k := newKernel(t, host.WithLog(log))
	plain := filepath.Join(k.dir, "add.wasm")
	if err := os.WriteFile(plain, addModule, 0o600); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(uuid.UUID) error{
		plain: func(id uuid.UUID) error { _, err := k.Call(ctx, id, "add", []byte("1 2")); return err },
		artifacts.summariseWasm: func(id uuid.UUID) error {
			_, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt"))
			return err
		},
		artifacts.summarise: func(id uuid.UUID) error {
			_, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt"))
			return err
		},
	}
	plugins := map[string]uuid.UUID{}
	for artifact := range calls {
		plugins[artifact] = k.start(k.config("p-"+filepath.Base(artifact), artifact))
	}
	atRest := k.load(k.config("at-rest", artifacts.rogueWasm))

	var stat unix.Statfs_t
	if err := unix.Statfs(mount, &stat); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, max(0, int64(stat.Bfree)*stat.Bsize-64<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 0; calls[plain](plugins[plain]) == nil; n++ {
		if n == 10_000 {
			t.Fatal("the disk does not fill")
		}
	}
	for artifact, call := range calls {
		var denied *abi.DeniedError
		if err := call(plugins[artifact]); !errors.As(err, &denied) || denied.Status != abi.Blocked || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s: %v, want it blocked for want of space", filepath.Base(artifact), err)
		}
	}
	if err := k.StartPlugin(ctx, atRest); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("start: %v", err)
	}
	if st := k.Status(); st.Phase != host.HostError || !strings.Contains(st.Reason, "no space left") {
		t.Errorf("the host is %s", st)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "calls are served again", func() bool { return calls[plain](plugins[plain]) == nil })
	for artifact, call := range calls {
		if err := call(plugins[artifact]); err != nil {
			t.Errorf("%s, with space again: %v", filepath.Base(artifact), err)
		}
		if p, _ := k.Plugin(plugins[artifact]); p.Integrity < zta.FullIntegrity || p.Status.Phase != host.PluginActive {
			t.Errorf("%s: %s, integrity %v", filepath.Base(artifact), p.Status, p.Integrity)
		}
	}
	if err := k.StartPlugin(ctx, atRest); err != nil {
		t.Errorf("start, with space again: %v", err)
	}
	if st := k.Status(); st.Phase != host.HostReady {
		t.Errorf("the host is %s", st)
	}
	if err := errors.Join(k.Close(ctx), log.Close()); err != nil {
		t.Error(err)
	}
	rep, err := audit.Verify(ctx, audit.VerifyOptions{Dir: dir})
	if err != nil || rep.FirstBad != nil {
		t.Errorf("the log does not verify: %+v, %v", rep, err)
	}
}
