package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/uuid"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
)

// settleTime is how long the configuration's files must be left alone before
// they are read: editors write in several steps.
const settleTime = 200 * time.Millisecond

// reloader keeps a kernel at what its configuration says.
type reloader struct {
	k       *kernel
	path    string
	applied map[string]host.PluginConfig // by plugin, as it was loaded last
	watcher *fsnotify.Watcher            // nil where there can be none
	files   map[string]bool              // that the configuration is made of

	mu  sync.Mutex // guards now
	now control.Configuration
}

func newReloader(k *kernel, path string) *reloader {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		k.logger.Warn("configuration is not watched: send SIGHUP after a change", "error", err)
		watcher = nil
	}
	return &reloader{k: k, path: path, applied: map[string]host.PluginConfig{}, watcher: watcher}
}

// current is the configuration in force.
func (r *reloader) current() control.Configuration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// start loads the plugins of the first configuration. A plugin that does not
// come up is a problem, not an error.
func (r *reloader) start(ctx context.Context, cfg *config.Config) error {
	if err := r.record(cfg, nil); err != nil {
		return err
	}
	r.follow(cfg.Files) // before what takes long: a change meanwhile is one to take up
	r.settle(cfg, r.plugins(ctx, cfg))
	return ctx.Err()
}

// settle puts a configuration in force, with what of it is not.
func (r *reloader) settle(cfg *config.Config, problem error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = control.Configuration{Path: r.path, Config: cfg, Loaded: time.Now().UTC(), Problem: problem}
}

// refuse leaves the configuration in force as it is, and says why.
func (r *reloader) refuse(cfg *config.Config, err error) {
	r.k.logger.Error("configuration refused, the last good one stays in force", "config", r.path, "error", err)
	if e := r.record(cfg, err); e != nil {
		r.k.logger.Error("the refusal is not on record", "error", e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Problem = err
}

// record puts on record that a configuration is taken, or why it is refused.
func (r *reloader) record(cfg *config.Config, problem error) error {
	rec := &audit.Record{Kind: audit.KindKernel, Outcome: audit.OutcomeOK, Details: map[string]string{"event": "config", "path": r.path}}
	if cfg != nil {
		rec.Digest = cfg.Digest
	}
	if problem != nil {
		rec.Outcome, rec.Error = audit.OutcomeFailed, problem.Error()
	}
	if _, err := r.k.log.Append(rec); err != nil {
		return fmt.Errorf("configuration not taken, because the audit log cannot be written: %w", err)
	}
	return nil
}

// reload reads the configuration anew and brings the kernel to it.
func (r *reloader) reload(ctx context.Context) {
	next, err := loadConfig(r.path)
	if err != nil {
		r.refuse(nil, err)
		return
	}
	cur := r.current()
	if err := fixed(cur.Config, next); err != nil {
		r.refuse(next, err)
		return
	}
	if err := r.record(next, nil); err != nil {
		r.refuse(nil, err)
		return
	}
	// Policies first: what they now forbid is forbidden to what follows.
	if cur.Config.Kernel.Enforcement != next.Kernel.Enforcement || !reflect.DeepEqual(cur.Config.Policies, next.Policies) {
		if err := r.k.host.SetPolicies(ctx, next.Kernel.Enforcement, next.Policies...); err != nil {
			r.refuse(next, err)
			return
		}
	}
	problem := r.plugins(ctx, next)
	r.settle(next, problem)
	r.k.logger.Info("configuration in force", "config", r.path, "digest", next.Digest)
}

// fixed is an error if next changes what a running kernel cannot.
func fixed(cur, next *config.Config) error {
	var changed []string
	note := func(what string, same bool) {
		if !same {
			changed = append(changed, what)
		}
	}
	note("kernel.name", cur.Kernel.Name == next.Kernel.Name)
	note("kernel.state_dir", cur.Kernel.StateDir == next.Kernel.StateDir)
	note("kernel.socket", cur.Kernel.Socket == next.Kernel.Socket)
	note("kernel.root_public_key", cur.Kernel.RootPublicKey == next.Kernel.RootPublicKey)
	note("kernel.idle_memory", cur.Kernel.IdleMemory == next.Kernel.IdleMemory)
	note("engine", reflect.DeepEqual(cur.Engines, next.Engines))
	note("audit", reflect.DeepEqual(cur.Audit, next.Audit))
	note("secret", reflect.DeepEqual(cur.Secrets, next.Secrets))
	note("key", reflect.DeepEqual(cur.Keys, next.Keys))
	if len(changed) == 0 {
		return nil
	}
	return fmt.Errorf("%v changed, which a running kernel cannot take up: restart it, or change it back", changed)
}

// plugins brings the loaded plugins to what cfg says. Each that cannot be is
// reported and left as it is.
func (r *reloader) plugins(ctx context.Context, cfg *config.Config) error {
	var errs []error
	failed := func(name string, err error) {
		r.k.logger.Error("plugin is not as configured", "plugin", name, "error", err)
		errs = append(errs, err)
	}
	for _, p := range r.k.host.Plugins() {
		if !slices.ContainsFunc(cfg.Plugins, func(c host.PluginConfig) bool { return c.Name == p.Name }) {
			if err := r.remove(ctx, p); err != nil {
				failed(p.Name, err)
			}
		}
	}
	for _, pc := range cfg.Plugins {
		if ctx.Err() != nil {
			break
		}
		id, err := r.k.host.Lookup(pc.Name)
		switch {
		case errors.Is(err, host.ErrNotFound):
			err = r.k.bringUp(ctx, pc)
		case err == nil && r.changed(pc):
			err = r.replace(ctx, id, pc)
		}
		if err != nil {
			failed(pc.Name, err)
			continue
		}
		r.applied[pc.Name] = pc
	}
	return errors.Join(errs...)
}

// replace reloads a plugin, and starts it if it had failed: a new configuration
// or artifact is a new chance.
func (r *reloader) replace(ctx context.Context, id uuid.UUID, pc host.PluginConfig) error {
	before, err := r.k.host.Plugin(id)
	if err == nil {
		err = r.k.host.ReloadPlugin(ctx, id, &pc)
	}
	if err == nil && before.Status.Phase == host.PluginFailed && pc.Autostart {
		err = r.k.host.StartPlugin(ctx, id)
	}
	return err
}

func (r *reloader) remove(ctx context.Context, p host.Plugin) error {
	if p.Status.Phase == host.PluginActive || p.Status.Phase == host.PluginPaused {
		if err := r.k.host.StopPlugin(ctx, p.ID); err != nil {
			return err
		}
	}
	if err := r.k.host.UnloadPlugin(ctx, p.ID); err != nil {
		return err
	}
	delete(r.applied, p.Name)
	return nil
}

// changed reports whether a loaded plugin is not what is configured and on
// disk: another configuration, or other bytes of its artifact.
func (r *reloader) changed(pc host.PluginConfig) bool {
	old, ok := r.applied[pc.Name]
	old.Origin = pc.Origin // lines move
	if !ok || !reflect.DeepEqual(old, pc) {
		return true
	}
	id, err := r.k.host.Lookup(pc.Name)
	if err != nil {
		return false
	}
	p, err := r.k.host.Plugin(id)
	if err != nil {
		return false
	}
	sum, err := fileDigest(pc.WasmModule + pc.NativeLibrary)
	return err != nil || sum != p.Digest // the reload says what is wrong with the file
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // as configured
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// watch reloads on each signal and when the configuration's files change, until
// ctx ends.
func (r *reloader) watch(ctx context.Context, signals <-chan os.Signal) {
	var events chan fsnotify.Event
	var errs chan error
	if r.watcher != nil {
		events, errs = r.watcher.Events, r.watcher.Errors
	}
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	// What changed between the reading and the watching made no event.
	if now, err := loadConfig(r.path); err == nil && now.Digest == r.current().Config.Digest {
		settled.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if r.files[filepath.Clean(e.Name)] && !e.Has(fsnotify.Chmod) {
				settled.Reset(settleTime)
			}
			continue
		case err := <-errs:
			r.k.logger.Warn("configuration watch", "error", err)
			continue
		case <-signals:
		case <-settled.C:
		}
		settled.Stop()
		r.reload(ctx)
		r.follow(r.current().Config.Files)
	}
}

// follow watches the directories of the configuration's files, since editors
// put new files in their places.
func (r *reloader) follow(files []string) {
	r.files = map[string]bool{}
	for _, f := range files {
		f = filepath.Clean(f)
		r.files[f] = true
		if r.watcher == nil {
			continue
		}
		if err := r.watcher.Add(filepath.Dir(f)); err != nil {
			r.k.logger.Warn("configuration file is not watched: send SIGHUP after a change", "file", f, "error", err)
		}
	}
}

// close ends the watch.
func (r *reloader) close() {
	if r.watcher != nil {
		_ = r.watcher.Close() // nothing is lost by it
	}
}
