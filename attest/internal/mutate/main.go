package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// variable tells the tests which mutant they are.
const variable = "KEYAGENT_MUTANT"

// packages are those whose code is mutated and whose tests are run, most telling first.
func packages() []string { return []string{"attest", "attest/tee", "attest/hcl"} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	conditions := flags.Bool("conditions", false, "remove every refusal, too, and not only every check")
	out := flags.String("out", "", "write the list to this file")
	match := flags.String("match", "", "only mutants with this in their name")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	survivors, err := mutate(ctx, *conditions, *match, *out, stdout)
	switch {
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "mutate:", err)
		return 2
	case survivors > 0:
		return 1
	}
	return 0
}

func mutate(ctx context.Context, conditions bool, match, out string, stdout io.Writer) (survivors int, err error) {
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory of our own under the system's
	names, err := instrument(dir)
	if err != nil {
		return 0, err
	}
	suites, err := build(ctx, dir)
	if err != nil {
		return 0, err
	}
	if killer, err := suites.kill(ctx, ""); err != nil || killer != "" {
		return 0, errors.Join(err, fmt.Errorf("the tests of %s fail without a mutant", killer))
	}
	var list bytes.Buffer
	for _, name := range names {
		if !conditions && !strings.HasPrefix(name, checkPrefix) || !strings.Contains(name, match) {
			continue
		}
		killer, err := suites.kill(ctx, name)
		if err != nil {
			return survivors, err
		}
		verdict := "killed  "
		if killer == "" {
			verdict = "SURVIVED"
			survivors++
		}
		line := verdict + "  " + name + "\n"
		list.WriteString(line)
		if _, err := io.WriteString(stdout, line); err != nil {
			return survivors, err
		}
	}
	total := bytes.Count(list.Bytes(), []byte("\n"))
	summary := fmt.Sprintf("%d mutants, %d survivors\n", total, survivors)
	list.WriteString(summary)
	if out != "" {
		if err := os.WriteFile(out, list.Bytes(), 0o644); err != nil { //nolint:gosec // a list to commit
			return survivors, err
		}
	}
	_, err = io.WriteString(stdout, summary)
	return survivors, err
}

// suite is one package's tests, built.
type suite struct {
	dir, binary string
	// args choose tests. The quick ones come first: nearly every mutant is killed by them.
	args []string
}

type suites []suite

func build(ctx context.Context, dir string) (suites, error) {
	var all suites
	for _, pkg := range packages() {
		binary := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./"+pkg) //nolint:gosec // paths of our own
		if output, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building the tests of %s: %w\n%s", pkg, err, output)
		}
		all = append(all, suite{dir: pkg, binary: binary})
	}
	quick := all[0]
	quick.args = []string{"-test.run", "TestEveryCheckRefuses|TestRealEvidence|TestGoodEvidence"}
	return slices.Insert(all, 0, quick), nil
}

// kill runs the tests as the mutant and returns the package whose tests notice, or "".
func (s suites) kill(ctx context.Context, mutant string) (string, error) {
	for _, one := range s {
		noticed := one.fails(ctx, mutant)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if noticed {
			return one.dir, nil
		}
	}
	return "", nil
}

// fails runs the suite's tests as the mutant, and reports whether they fail.
func (s suite) fails(ctx context.Context, mutant string) bool {
	const patience = 10 * time.Minute // a mutant may hang
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"-test.failfast"}, s.args...)...) //nolint:gosec // built above
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), variable+"="+mutant)
	return cmd.Run() != nil
}
