// Package scripts_test tests the scripts beside it, with a go command that says what a
// test wants.
package scripts_test

import (
	"cmp"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
)

// outOfTime is what go test says when FUZZTIME is over while it is busy with an input.
const outOfTime = `fuzz: elapsed: 0s, gathering baseline coverage: 0/3 completed
fuzz: elapsed: 0s, gathering baseline coverage: 3/3 completed, now fuzzing with 2 workers
fuzz: elapsed: 3s, execs: 51 (17/sec), new interesting: 0 (total: 3)
fuzz: elapsed: 7s, execs: 1234 (60/sec), new interesting: 1 (total: 4)
--- FAIL: FuzzIt (6.42s)
    context deadline exceeded
FAIL
exit status 1
FAIL	example.com/it	6.431s
`

func TestTheEndOfTimeIsNoFindOfAFuzzTarget(t *testing.T) {
	for _, tt := range []struct {
		name, output string
		fails        bool
		summary      string
	}{
		{"it ended well", "fuzz: elapsed: 6s, execs: 99 (9/sec), new interesting: 1 (total: 4)\nPASS\nok  \texample.com/it\t6.1s\n", false, "ok              99 executions"},
		{"out of time", outOfTime, false, "ok            1234 executions"},
		{"out of time before any input", "fuzz: elapsed: 6s, gathering baseline coverage: 0/9 completed\n--- FAIL: FuzzIt (6.42s)\n    context deadline exceeded\nFAIL\n", false, "short            0 executions"},
		{"a find", `fuzz: elapsed: 1s, execs: 7 (7/sec), new interesting: 0 (total: 3)
--- FAIL: FuzzIt (1.04s)
    --- FAIL: FuzzIt (0.00s)
        it_test.go:9: boom

    Failing input written to testdata/fuzz/FuzzIt/a878c3134fe0404d
    To re-run:
    go test -run=FuzzIt/a878c3134fe0404d
FAIL
exit status 1
FAIL	example.com/it	1.051s
`, true, "FAILED           7 executions"},
		{"a seed that fails", "--- FAIL: FuzzIt (0.01s)\n    --- FAIL: FuzzIt/seed#0 (0.00s)\n        it_test.go:9: boom\nFAIL\n", true, "FAILED           0 executions"},
		{"a find beside the end of time", strings.Replace(outOfTime, "FAIL\n", "    Failing input written to testdata/fuzz/FuzzIt/a878c3134fe0404d\nFAIL\n", 1), true, "FAILED        1234 executions"},
		{"a target whose own deadline passed", strings.Replace(outOfTime, "    context", "    it_test.go:9: context", 1), true, "FAILED        1234 executions"},
		{"what does not compile", "# example.com/it\n./it_test.go:3:1: syntax error\nFAIL\texample.com/it [build failed]\nFAIL\n", true, "FAILED           0 executions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "it", "it_test.go"), "package it\n\nfunc FuzzIt(f *testing.F) {\n", 0o600)
			write(t, filepath.Join(dir, "output"), tt.output, 0o600)
			write(t, filepath.Join(dir, "bin", "go"), "#!/bin/sh\ncat '"+dir+"/output'\n! grep -q '^FAIL' '"+dir+"/output'\n", 0o700)
			fuzz := exec.CommandContext(t.Context(), tooltest.Tool(t, "bash"), "./fuzz", filepath.Join(dir, "it"))
			fuzz.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
			said, err := fuzz.CombinedOutput()
			if (err != nil) != tt.fails {
				t.Errorf("ended with %v, want a failure: %v\n%s", err, tt.fails, said)
			}
			if !strings.Contains(string(said), tt.summary) {
				t.Errorf("the summary lacks %q:\n%s", tt.summary, said)
			}
		})
	}
}

// someTests is what go test -v says.
const someTests = `=== RUN   TestOne
--- PASS: TestOne (0.00s)
=== RUN   TestEntry
    a_test.go:3: not a test: other tests start it
--- SKIP: TestEntry (0.00s)
=== RUN   TestRoot
=== RUN   TestRoot/sub
    a_test.go:9: it takes root
    --- SKIP: TestRoot/sub (0.00s)
--- PASS: TestRoot (0.00s)
PASS
ok  	example.com/a	0.1s
`

const preventable = `=== RUN   TestTool
    tooltest.go:84: curl is not installed; ` + "`scripts/bootstrap test`" + ` installs it
--- SKIP: TestTool (0.00s)
PASS
ok  	example.com/b	0.1s
`

func TestSkippedTestsAreReportedAsOneNumberWithReasons(t *testing.T) {
	for _, tt := range []struct {
		name, output string
		promised     string // KEYAGENT_REQUIRE_TOOLS
		fails        bool
		says         string
	}{
		{"none", "--- PASS: TestOne (0.00s)\nPASS\nok  \texample.com/a\t0.1s\n", "", false, "skipped: 0\n"},
		{"one, and an entry of another test's process", someTests, "", false, "skipped: 1\n  TestRoot/sub: it takes root\n"},
		{"what bootstrap could have prevented", someTests + preventable, "", false, "skipped: 2\n  TestRoot/sub: it takes root\n  TestTool: curl is not installed"},
		{"the same, where it was promised", someTests + preventable, "1", true, "scripts/bootstrap could have prevented:\n  TestTool: curl is not installed"},
		{"what it could not, where all was promised", someTests, "1", false, "skipped: 1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "output"), tt.output, 0o600)
			write(t, filepath.Join(dir, "bin", "go"), "#!/bin/sh\ncat '"+dir+"/output'\n", 0o700)
			run := exec.CommandContext(t.Context(), tooltest.Tool(t, "bash"), "./test", "go-test")
			run.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
				"KEYAGENT_TEST_LOGS="+filepath.Join(dir, "logs"), tooltest.RequireEnv+"="+tt.promised)
			said, err := run.CombinedOutput()
			if (err != nil) != tt.fails {
				t.Errorf("ended with %v, want a failure: %v\n%s", err, tt.fails, said)
			}
			if !strings.Contains(string(said), tt.says) {
				t.Errorf("it does not say %q:\n%s", tt.says, said)
			}
		})
	}
}

const timed = `--- PASS: TestQuick (0.10s)
PASS
ok  	example.com/quick	0.2s
--- PASS: TestOne (1.00s)
    --- PASS: TestOne/sub (0.90s)
--- PASS: TestTwo (11.50s)
PASS
ok  	example.com/slow	12.6s
--- FAIL: TestThree (3.00s)
FAIL
FAIL	example.com/failing	3.1s
ok  	example.com/earlier	(cached)
?   	example.com/none	[no test files]
`

func TestTheSlowestIsReportedFirst(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "output"), timed, 0o600)
	write(t, filepath.Join(dir, "bin", "go"), "#!/bin/sh\ncat '"+dir+"/output'\n", 0o700)
	run := exec.CommandContext(t.Context(), tooltest.Tool(t, "bash"), "./test", "go-test")
	run.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
		"KEYAGENT_TEST_LOGS="+filepath.Join(dir, "logs"), tooltest.RequireEnv+"=")
	said, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	_, table, _ := strings.Cut(string(said), "what took longest (seconds):\n")
	table, _, _ = strings.Cut(table, "\n\n")
	got := strings.Fields(table)
	want := []string{
		"12.6", "example.com/slow", "TestTwo", "(11.5)",
		"3.1", "example.com/failing", "TestThree", "(3.0)",
		"0.2", "example.com/quick", "TestQuick", "(0.1)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Packages that are named so that they start first must be there, or go test runs none.
func TestThePackagesThatStartFirstExist(t *testing.T) {
	text, err := os.ReadFile("test")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^longest_first=\((.*)\)$`).FindStringSubmatch(string(text))
	if match == nil {
		t.Fatal("./test does not say which packages start first")
	}
	for pattern := range strings.FieldsSeq(match[1]) {
		if _, err := os.Stat(filepath.Join("..", strings.TrimSuffix(pattern, "/..."))); err != nil {
			t.Error(err)
		}
	}
}

// TestBootstrapInstallsWhatTestsAskFor compares its list with the programs that tests ask for by
// name.
func TestBootstrapInstallsWhatTestsAskFor(t *testing.T) {
	bootstrap, err := os.ReadFile("bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	// In packages that every Debian has, or that are needed to run tests at all.
	always := []string{"sh", "bash", "go", "getent", "unshare", "setpriv", "ldconfig", "ldd"}
	asked := regexp.MustCompile(`tooltest\.Tool\(\w+, "([^"]+)"\)|range \[\]string\{([^}]*)\} \{\n\s*tooltest\.Tool`)
	found := 0
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return cmp.Or(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "../internal/tooltest/") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, match := range asked.FindAllStringSubmatch(string(text), -1) {
			for name := range strings.FieldsFuncSeq(match[1]+","+match[2], func(r rune) bool { return strings.ContainsRune(`", `, r) }) {
				found++
				tool, _, _ := strings.Cut(name, "_") // tpm2-tools has many
				if !slices.Contains(always, name) && !strings.Contains(string(bootstrap), "command -v "+tool) && !strings.Contains(string(bootstrap), "have_"+tool) {
					t.Errorf("%s asks for %s, and bootstrap does not look for it", path, name)
				}
			}
		}
		return err
	})
	if err != nil || found < 30 {
		t.Errorf("found %d names, %v", found, err)
	}
}

// TestAMachineThatFailsIsNoMachineThatCannotBeHad runs test/e2e/ci with a machine that is scripted.
func TestAMachineThatFailsIsNoMachineThatCannotBeHad(t *testing.T) {
	const silent = `touch -d '10 minutes ago' "$log"; exit 120`
	for _, tt := range []struct {
		name, run string
		fails     bool
		says      string
	}{
		{"all is well", `echo 'ok      the service starts' >"$log"; echo 'Debian GNU/Linux 12'`, false, "Debian GNU/Linux 12"},
		{"a check fails", `echo 'FAILED  the service starts' >"$log"; exit 1`, true, "FAILED on a machine"},
		{"a check fails, and then it hangs", `echo 'FAILED  it serves again' >"$log"; ` + silent, true, "FAILED on a machine"},
		{"it hangs after the same check twice", `echo 'ok      it serves' >"$log"; ` + silent, true, "twice it said nothing any more after: ok      it serves"},
		{"it hangs after one check, then another", `echo "ok      check $(wc -l <"$0.runs")" >"$log"; ` + silent, false, "NOT RUN"},
		{"it is slow", `echo 'ok      it serves' >"$log"; exit 120`, false, "NOT RUN"},
		{"it hangs in its boot", `: >"$log"; ` + silent, false, "NOT RUN"},
		{"nothing can be fetched", `echo 'nfpm cannot be fetched'; exit 1`, false, "NOT RUN"},
		{"the agent says that something cannot be fetched", `echo 'FAILED  a token cannot be fetched' >"$log"; cat "$log"; exit 1`, true, "FAILED on a machine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range []string{"scripts/lib.sh", "test/e2e/ci"} {
				text, err := os.ReadFile(filepath.Join("..", file))
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, file), string(text), 0o700)
			}
			write(t, filepath.Join(dir, "test/e2e/run"), "#!/bin/sh\necho run >>\"$0.runs\"\nlog=.cache/e2e/results-bookworm-quick/log\nmkdir -p \"${log%/*}\"\n"+tt.run+"\n", 0o700)
			write(t, filepath.Join(dir, "bin/id"), "#!/bin/sh\necho 0\n", 0o700)
			for _, tool := range []string{"qemu-system-x86_64", "mmdebstrap", "mke2fs", "depmod", "cpio", "busybox", "jq"} {
				write(t, filepath.Join(dir, "bin", tool), "#!/bin/sh\n", 0o700)
			}
			cmd := exec.Command(filepath.Join(dir, "test/e2e/ci"))
			cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "KEYAGENT_E2E=")
			out, err := cmd.CombinedOutput()
			if (err != nil) != tt.fails || !strings.Contains(string(out), tt.says) {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
