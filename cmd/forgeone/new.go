package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"forgeone.dev/forgeone/sdk/assemblyscript"
	csdk "forgeone.dev/forgeone/sdk/c"
)

// scaffold holds the files of new plugins, as templates with [[ ]] around what
// is filled in. A language is made of some of its folders.
//
//go:embed all:scaffold
var scaffold embed.FS

const sdkModule = "forgeone.dev/forgeone"

// language is one that plugins are scaffolded in.
type language struct {
	name     string
	folders  []string // of the scaffold
	native   bool
	goSDK    bool     // it is built against the Go module
	syscalls []string // that the scaffolded plugin asks for
	needs    string   // to be built
	sdk      func() ([]newFile, error)
}

// languages are those there are. What a scaffolded plugin is granted is what it
// asks for: Go's runtime, on wasip1, the clock and a seed as well.
var languages = []language{
	{name: "go", folders: []string{"common", "any-go", "go"}, goSDK: true, syscalls: []string{"file_open", "file_read", "time_get", "random_get"}, needs: "Go 1.26"},
	{name: "native-go", folders: []string{"common", "any-go", "native-go"}, native: true, goSDK: true, syscalls: []string{"file_open", "file_read"}, needs: "Go 1.26"},
	{name: "c", folders: []string{"common", "c"}, syscalls: []string{"file_open", "file_read"}, needs: "clang with the target wasm32, and wasm-ld (Debian: apt install clang lld)",
		sdk: func() ([]newFile, error) { return []newFile{{"forge.h", csdk.Header}}, nil }},
	{name: "assemblyscript", folders: []string{"common", "assemblyscript"}, syscalls: []string{"file_open", "file_read"}, needs: "node 20 and npm, which fetches the compiler",
		sdk: func() ([]newFile, error) { return filesOf(assemblyscript.Package, "sdk") }},
}

// newFile is a file of a new plugin: its path with slashes, from the plugin's
// folder.
type newFile struct {
	path    string
	content []byte
}

// newPlugin is what plugin new made.
type newPlugin struct {
	Name     string   `json:"name"`
	Language string   `json:"language"`
	Dir      string   `json:"dir"`
	Files    []string `json:"files"`
	Needs    string   `json:"needs"` // to be built
	Next     []string `json:"next"`  // commands to go on with
}

func languageNames() []string {
	names := make([]string, len(languages))
	for i, l := range languages {
		names[i] = l.name
	}
	return names
}

func (c *cli) pluginNew() *cobra.Command {
	var lang, dir, sdk string
	cmd := &cobra.Command{
		Use:   "new --lang LANGUAGE NAME",
		Short: "Make the folder of a new plugin: source, test, Makefile, and a configuration that grants exactly what it asks for",
		Long: `Make the folder of a new plugin, which greets whoever its input names. In it are
the source, a test, a Makefile (make, make test, make try) and a configuration
to try it with, whose plugin and policy blocks grant exactly what it asks for.

A folder that is not empty is refused, so nothing is ever overwritten. A plugin
in Go is built against the published module if this is a release, and else
against the checkout that --sdk names, or that this binary or the current folder
lies in.`,
		Example: `  forgeone plugin new --lang go greeter
  forgeone plugin new --lang native-go --dir plugins/greeter greeter
  forgeone plugin new --lang c greeter --format json`,
		Args: exactArgs("NAME"),
		RunE: c.do(func(_ *cobra.Command, args []string) error {
			if dir == "" {
				dir = args[0]
			}
			made, err := makePlugin(lang, args[0], dir, sdk)
			if err != nil {
				return err
			}
			return c.print(made, func(p *printer) { printNewPlugin(p, made) })
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&lang, "lang", "", "what it is written in: "+strings.Join(languageNames(), ", "))
	cmd.Flags().StringVar(&dir, "dir", "", "the folder; default NAME")
	cmd.Flags().StringVar(&sdk, "sdk", "", "checkout of ForgeOne that a plugin in Go is built against")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"lang": cobra.FixedCompletions(languageNames(), cobra.ShellCompDirectiveNoFileComp),
		"dir":  cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
		"sdk":  cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // there is no such flag
		}
	}
	if err := cmd.MarkFlagRequired("lang"); err != nil {
		panic(err) // there is no such flag
	}
	return cmd
}

// validName is a name that a module, an npm package, a file and a plugin can have.
var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func makePlugin(lang, name, dir, sdk string) (newPlugin, error) {
	i := slices.IndexFunc(languages, func(l language) bool { return l.name == lang })
	if i < 0 {
		return newPlugin{}, &usageError{fmt.Errorf("--lang %q: want one of %s", lang, strings.Join(languageNames(), ", "))}
	}
	l := languages[i]
	if !validName.MatchString(name) {
		return newPlugin{}, &usageError{fmt.Errorf("%q cannot name a plugin here: want a small letter, then small letters, digits and hyphens, 63 at most", name)}
	}
	files, err := l.files(name, sdk)
	if err != nil {
		return newPlugin{}, err
	}
	if err := writeNew(dir, files); err != nil {
		return newPlugin{}, fmt.Errorf("plugin new: %w", err)
	}
	made := newPlugin{Name: name, Language: lang, Dir: dir, Needs: l.needs, Next: []string{"cd " + dir, "make", "make test", "make try"}}
	for _, f := range files {
		made.Files = append(made.Files, f.path)
	}
	return made, nil
}

// files are the files of a plugin of that name, in the order of their paths.
func (l *language) files(name, sdk string) ([]newFile, error) {
	fill := struct {
		Name, Lang, Artifact string
		Native               bool
		Syscalls, Needs      string // lists in HCL and in Go
		Version, SDK         string // of the Go module, and where it is if it is not published
	}{Name: name, Lang: l.name, Artifact: name + ".wasm", Native: l.native}
	if l.native {
		fill.Artifact = name
	}
	for _, s := range l.syscalls {
		fill.Needs += fmt.Sprintf("%q, ", s)
	}
	fill.Syscalls = "[" + strings.TrimSuffix(fill.Needs, ", ") + "]"
	if l.goSDK {
		var err error
		if fill.Version, fill.SDK, err = findSDK(sdk); err != nil {
			return nil, err
		}
	} else if sdk != "" {
		return nil, &usageError{fmt.Errorf("--sdk is for plugins in Go: one in %s brings its SDK along", l.name)}
	}

	var files []newFile
	for _, folder := range l.folders {
		sub, err := fs.Sub(scaffold, path.Join("scaffold", folder))
		if err != nil {
			return nil, err
		}
		templates, err := filesOf(sub, "")
		if err != nil {
			return nil, err
		}
		for _, f := range templates {
			t, err := template.New(f.path).Delims("[[", "]]").Parse(string(f.content))
			if err != nil {
				return nil, err
			}
			var b bytes.Buffer
			if err := t.Execute(&b, fill); err != nil {
				return nil, err
			}
			files = append(files, newFile{strings.TrimSuffix(f.path, ".tmpl"), b.Bytes()})
		}
	}
	if l.sdk != nil {
		more, err := l.sdk()
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	slices.SortFunc(files, func(a, b newFile) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

// filesOf are the files of a tree, under a folder.
func filesOf(tree fs.FS, under string) ([]newFile, error) {
	var files []newFile
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(tree, p)
		files = append(files, newFile{path.Join(under, p), b})
		return err
	})
	return files, err
}

// findSDK says which version of the Go module a plugin is built against, and
// where it lies if that is a checkout.
func findSDK(checkout string) (version, dir string, err error) {
	switch v := versionOf().Version; {
	case checkout != "":
		if dir = checkoutAbove(checkout); dir == "" {
			return "", "", &usageError{fmt.Errorf("--sdk %s: that is no checkout of %s", checkout, sdkModule)}
		}
	case semver.IsValid(v) && !strings.Contains(v, "+") && !module.IsPseudoVersion(v):
		return v, "", nil
	default:
		var places []string
		if exe, err := os.Executable(); err == nil {
			places = append(places, filepath.Dir(exe))
		}
		for _, p := range append(places, ".") {
			if dir = checkoutAbove(p); dir != "" {
				break
			}
		}
		if dir == "" {
			return "", "", &usageError{fmt.Errorf("this forgeone (%s) is no release, so there is no published %s to build a plugin in Go against: name a checkout of it with --sdk", v, sdkModule)}
		}
	}
	return "v0.0.0", modfile.AutoQuote(dir), nil
}

// checkoutAbove is the checkout of our module that a folder lies in, or "".
func checkoutAbove(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && modfile.ModulePath(b) == sdkModule { //nolint:gosec // the user's own folders
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// writeNew writes files into a folder that is made, or is empty. What cannot be
// written whole is taken away again.
func writeNew(dir string, files []newFile) (err error) {
	made, err := makeEmpty(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			for _, f := range files {
				top, _, _ := strings.Cut(f.path, "/")
				_ = root.RemoveAll(top) // the folder was empty: all of it is ours
			}
		}
		err = errors.Join(err, root.Close())
		if err != nil && made {
			_ = os.Remove(dir)
		}
	}()
	for _, f := range files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(f.path, ".sh") {
			mode = 0o755
		}
		name := filepath.FromSlash(f.path)
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(name, f.content, mode); err != nil {
			return err
		}
	}
	return nil
}

// makeEmpty makes a folder, and reports that it did, unless there is an empty one.
func makeEmpty(dir string) (made bool, err error) {
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return true, os.MkdirAll(dir, 0o755) //nolint:gosec // source, for everyone to read
	case err != nil:
		return false, err
	case len(entries) > 0:
		return false, fmt.Errorf("%s is not empty, and nothing is overwritten: choose another folder with --dir", dir)
	}
	return false, nil
}

func printNewPlugin(p *printer, n newPlugin) {
	p.row("made", n.Dir)
	for _, f := range n.Files {
		p.row("", f)
	}
	p.row("needs", n.Needs)
	p.row("next", strings.Join(n.Next, " && "))
}
