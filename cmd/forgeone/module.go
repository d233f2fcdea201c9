package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/syscalls"
)

func (c *cli) module() *cobra.Command {
	return group(&cobra.Command{
		Use:     "module",
		Short:   "Look into WASM modules",
		Example: "  forgeone module inspect plugin.wasm",
	}, c.moduleInspect())
}

// moduleInfo is what module inspect finds.
type moduleInfo struct {
	Path      string       `json:"path"`
	SHA256    string       `json:"sha256"`
	Size      int          `json:"size"` // bytes
	ABI       string       `json:"abi"`
	Problem   string       `json:"problem,omitempty"` // why it cannot be a plugin
	Functions []string     `json:"functions"`         // that can be called
	Imports   []externInfo `json:"imports"`
	Exports   []externInfo `json:"exports"`
	// Form is what the module is in WASI's words: a command, which runs once,
	// or a reactor, which is set up and then called. Empty for neither.
	Form string `json:"form,omitempty"`
	// Needs are the syscalls that its imports lead to. Which others a forge/1
	// guest asks for shows when it runs.
	Needs []string `json:"needs"`
	Note  string   `json:"note,omitempty"`
	// Grant is a plugin and a policy block, in HCL, that grant what it needs.
	// Empty if it cannot be a plugin.
	Grant string `json:"grant,omitempty"`
}

type externInfo struct {
	Module string `json:"module,omitempty"`
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Type   string `json:"type,omitempty"`
}

func (c *cli) moduleInspect() *cobra.Command {
	var engine string
	cmd := &cobra.Command{
		Use:     "inspect MODULE.wasm",
		Short:   "Show a module's ABI, hash, imports, exports, the syscalls it needs and a grant of them to paste, without running it",
		Example: "  forgeone module inspect plugin.wasm\n  forgeone module inspect --format json plugin.wasm",
		Args:    exactArgs("MODULE.wasm"),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			m, err := inspect(cmd.Context(), engine, args[0])
			if err != nil {
				return err
			}
			return c.print(m, func(p *printer) { printModule(p, m) })
		}),
	}
	cmd.Flags().StringVar(&engine, "engine", "", "engine to read it with; default wazero")
	return cmd
}

func inspect(ctx context.Context, engine, path string) (_ moduleInfo, err error) {
	b, err := os.ReadFile(path) //nolint:gosec // the user names the file
	if err != nil {
		return moduleInfo{}, fmt.Errorf("module: %w", err)
	}
	found, err := builtins.Find(engine, "", nil)
	if err != nil {
		return moduleInfo{}, &usageError{err}
	}
	e, err := found.Guarded(cache.Config{}, nil)()
	if err != nil {
		return moduleInfo{}, fmt.Errorf("engine %s: %w", found.Name, err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	m, err := e.Compile(ctx, b, engines.CompileOptions{})
	if err != nil {
		return moduleInfo{}, fmt.Errorf("%s: %w", path, err)
	}
	sum := sha256.Sum256(b)
	info := moduleInfo{
		Path: path, SHA256: hex.EncodeToString(sum[:]), Size: len(b),
		Imports: []externInfo{}, Exports: []externInfo{}, Functions: []string{}, Needs: []string{},
	}
	for _, im := range m.Imports() {
		info.Imports = append(info.Imports, externInfo{Module: im.Module, Name: im.Name, Kind: im.Type.Kind.String(), Type: typeText(im.Type)})
	}
	for _, ex := range m.Exports() {
		info.Exports = append(info.Exports, externInfo{Name: ex.Name, Kind: ex.Type.Kind.String(), Type: typeText(ex.Type)})
	}
	info.classify(m)
	if info.Problem == "" {
		info.Grant, err = info.grant()
	}
	return info, err
}

// classify says how the module is spoken to and what it needs.
func (info *moduleInfo) classify(m engines.Module) {
	exports := func(name string) bool {
		return slices.ContainsFunc(m.Exports(), func(e engines.ExportType) bool { return e.Name == name })
	}
	imports := func(module string) bool {
		return slices.ContainsFunc(m.Imports(), func(i engines.ImportType) bool { return i.Module == module })
	}
	switch {
	case forge.Detect(m):
		info.ABI, info.Functions = "forge/1", append(info.Functions, forge.Functions(m)...)
		if err := forge.Check(m); err != nil {
			info.Problem = err.Error()
		}
	case extism.Detect(m):
		info.ABI, info.Functions = "extism", append(info.Functions, extism.Functions(m)...)
		if err := extism.Check(m); err != nil {
			info.Problem = err.Error()
		}
	case exports("_start"):
		info.ABI, info.Functions = "wasi", []string{"_start"}
	default:
		info.ABI = "core"
		for _, ex := range m.Exports() {
			if ex.Type.Kind == engines.KindFunc && !strings.HasPrefix(ex.Name, "_") {
				info.Functions = append(info.Functions, ex.Name)
			}
		}
	}
	switch {
	case exports("_start"):
		info.Form = "command"
	case exports("_initialize"):
		info.Form = "reactor"
	}
	needs := map[string]bool{}
	for _, im := range m.Imports() {
		if im.Module == wasi.ModuleName {
			for _, name := range wasi.Syscalls(im.Name) {
				needs[name] = true
			}
		}
		if im.Module == extism.ModuleName && extism.Syscall(im.Name) != "" {
			needs[extism.Syscall(im.Name)] = true
		}
	}
	info.Needs = append(info.Needs, slices.Sorted(maps.Keys(needs))...)
	if imports(forge.ModuleName) {
		info.Note = "it asks for further syscalls when it runs: grant what it is meant to do, and see audit export --decision blocked for what it tried besides"
	}
}

func typeText(t engines.ExternType) string {
	switch t.Kind {
	case engines.KindFunc:
		return t.Func.String()
	case engines.KindMemory:
		if t.Memory.HasMax {
			return fmt.Sprintf("%d to %d pages", t.Memory.Min, t.Memory.Max)
		}
		return fmt.Sprintf("%d pages or more", t.Memory.Min)
	case engines.KindGlobal:
		if t.Global.Mutable {
			return "mut " + t.Global.Value.String()
		}
		return t.Global.Value.String()
	}
	return ""
}

// unnamed is what the name of a plugin made of a file's has no place for.
var unnamed = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// grant is the configuration of a plugin of this module that holds what it
// needs, at the lowest trust level that may.
func (info *moduleInfo) grant() (string, error) {
	registry, err := newRegistry(syscalls.Options{})
	if err != nil {
		return "", err
	}
	var (
		names, missing []string
		level          = capability.Limited
		files, writes  bool
	)
	for _, name := range info.Needs {
		reg, ok := registry.Lookup(name)
		switch {
		case !ok:
			missing = append(missing, name)
			continue
		case reg.Release: // needs no grant
			continue
		}
		names = append(names, strconv.Quote(name))
		level = max(level, reg.MinTrust)
		if strings.HasPrefix(name, "file_") {
			files, writes = true, writes || reg.MinTrust > capability.Limited
		}
	}
	name := strings.Trim(unnamed.ReplaceAllString(strings.TrimSuffix(filepath.Base(info.Path), ".wasm"), "-"), "-.")
	if name == "" {
		name = "plugin"
	}
	list := "[" + strings.Join(names, ", ") + "]"
	var b strings.Builder
	if len(names) > 0 {
		fmt.Fprintf(&b, "policy %q {\n  plugins  = [%q]\n  syscalls = %s\n}\n\n", name+"-needs", name, list)
	}
	fmt.Fprintf(&b, "plugin %q {\n  wasm        = %s\n  sha256      = %q\n  trust_level = %q\n", name, hclText(info.Path), info.SHA256, level)
	if len(names) > 0 {
		b.WriteString("\n  capabilities {\n    syscalls  = " + list + "\n")
		if files {
			b.WriteString("    resources = [\"file:///data/**\"]\n")
		}
		b.WriteString("  }\n")
	}
	if files {
		mode := "ro"
		if writes {
			mode = "rw"
		}
		fmt.Fprintf(&b, "  mount \"/data\" {\n    host = \"data\" # the directory that it is lent\n    mode = %q\n  }\n", mode)
	}
	b.WriteString("}\n")
	if len(missing) > 0 {
		b.WriteString("# It may also ask for what this version does not have: " + strings.Join(missing, ", ") + "\n")
	}
	return b.String(), nil
}

// hclText is a text as HCL has it.
func hclText(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}

func printModule(p *printer, m moduleInfo) {
	p.row("module", m.Path)
	p.row("sha256", m.SHA256)
	p.row("size", fmt.Sprintf("%d bytes", m.Size))
	if m.Form == "" {
		p.row("abi", m.ABI)
	} else {
		p.row("abi", m.ABI+" (WASI "+m.Form+")")
	}
	if m.Problem != "" {
		p.row("problem", m.Problem)
	}
	p.row("functions", list(m.Functions))
	p.row("needs", list(m.Needs))
	if m.Note != "" {
		p.row("", m.Note)
	}
	p.line("")
	p.row("", "KIND", "NAME", "TYPE")
	for _, x := range m.Imports {
		p.row("import", x.Kind, x.Module+"."+x.Name, x.Type)
	}
	for _, x := range m.Exports {
		p.row("export", x.Kind, x.Name, x.Type)
	}
	if m.Grant != "" {
		p.line("")
		for line := range strings.Lines(m.Grant) {
			p.line("%s", strings.TrimSuffix(line, "\n"))
		}
	}
}
