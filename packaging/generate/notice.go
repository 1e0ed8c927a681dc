package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// linked is a module of which packages are in the program.
type linked struct{ Path, Version, Dir string }

// writeNotice writes the licences of all modules, Go's own library included, of which packages are
// linked into a program on any processor that we build for. A module without one is an error.
func writeNotice(ctx context.Context, program string, out io.Writer) error {
	modules := map[string]linked{}
	for _, arch := range []string{"amd64", "arm64"} {
		if err := listLinked(ctx, program, arch, modules); err != nil {
			return err
		}
	}
	goroot, err := goCommand(ctx, nil, "env", "GOROOT", "GOVERSION")
	if err != nil {
		return err
	}
	dir, version, _ := strings.Cut(strings.TrimSpace(string(goroot)), "\n")
	modules["Go"] = linked{"Go (standard library and runtime)", version, dir}
	fmt.Fprintln(out, "This program is linked from the following. Each has its own licence, which follows its name.")
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		if err := writeLicences(modules[path], out); err != nil {
			return err
		}
	}
	return nil
}

// listLinked adds the modules of a program, other than its own.
func listLinked(ctx context.Context, program, arch string, modules map[string]linked) error {
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	list, err := goCommand(ctx, env, "list", "-deps", "-json=Module", program)
	if err != nil {
		return err
	}
	for dec := json.NewDecoder(bytes.NewReader(list)); ; {
		var p struct {
			Module *struct {
				linked
				Main bool
			}
		}
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("go list: %w", err)
		}
		if p.Module != nil && !p.Module.Main {
			modules[p.Module.Path] = p.Module.linked
		}
	}
}

func goCommand(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the arguments are this program's own
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// writeLicences writes the files of a module that state its terms.
func writeLicences(m linked, out io.Writer) error {
	files, err := licenceFiles(m.Dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s %s: there is no licence in %s", m.Path, m.Version, m.Dir)
	}
	fmt.Fprintf(out, "\n%s\n%s %s\n", strings.Repeat("=", 80), m.Path, m.Version)
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(m.Dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\n----- %s\n\n%s\n", name, strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
	}
	return nil
}

// licenceFiles are the files in a module's root whose names say that they are its terms.
func licenceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		states := slices.ContainsFunc([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS"}, func(word string) bool {
			return strings.HasPrefix(upper, word)
		})
		if states && e.Type().IsRegular() && !strings.HasSuffix(upper, ".GO") {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(a, b) })
	return names, nil
}
