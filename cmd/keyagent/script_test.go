package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/pki"
)

// TestMain lets the scripts run programs, each as a process of its own: the real
// keyagent, a simulated platform with its TPM, and what script_programs_test.go has.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keyagent":   main,
		"azuresim":   func() { os.Exit(azuresim()) },
		"mtlsserver": func() { os.Exit(complain(mtlsServer(os.Args[1], os.Args[2]))) },
		"extendpcr":  func() { os.Exit(complain(extendPCR(os.Args[1], os.Args[2]))) },
		"hung":       func() { os.Exit(complain(hang(os.Args[1]))) },
		"askimds":    func() { os.Exit(complain(takeoverClient(os.Args[1]))) },
		"tpmrelay":   func() { os.Exit(complain(relayTPM(os.Args[1]))) },
		"fakeagent":  func() { os.Exit(complain(fakeAgent(os.Args[1]))) },
		"sdk":        func() { os.Exit(complain(sdk(os.Args[1:]))) },
	})
}

// azuresim serves a platform in the directory that is its only argument.
func azuresim() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	platform, err := simulator.Start(ctx, simulator.Config{Dir: os.Args[1], Keys: pki.KeysIn(os.Getenv(platformKeys))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-ctx.Done()
	if err := platform.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestScripts plays testdata/script: a user's story each.
//
// Commands besides testscript's own:
//
//	ready FILE                  waits for a socket to answer or a file to be there
//	until PATTERN PROGRAM ARG...  runs a program again and again until it prints that
//	exits CODE PROGRAM ARG...   runs a program that must end with that exit code
//	fault DIR JSON | faultless DIR
//	upload DIR APP FILE         registers a certificate for an application
//	enrol DIR APP CN FILE       has FILE.csr certified, by an authority that the application trusts
//	issue DIR APP REQUEST DAYS FILE  the same, long ago, with so many days left
//	policy DIR APP JSON
//	journal DIR LEG COUNT       counts the requests that the platform saw
//	freeport VARIABLE | secretonly PIDFILE | leakless [PIDFILE]
//
// The condition [root] is that the scripts may be other users, too, [mount] that they may
// have a mount namespace, and [pty] that there are pseudo-terminals; [httpx] and [mono] that
// Python's library and .NET's compiler are installed, which is promised where tools are.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "script", nil))
}

// TestScriptsWithTPMTools plays testdata/tpmtools, where other programs use the TPM, too.
func TestScriptsWithTPMTools(t *testing.T) {
	tooltest.OpenSSLProvider(t, "tpm2")
	for _, tool := range []string{"swtpm", "tpm2_create", "tpm2_encodeobject", "tpm2_evictcontrol", "tpm2_flushcontext"} {
		tooltest.Tool(t, tool)
	}
	testscript.Run(t, params(t, "tpmtools", func(env *testscript.Env) {
		tcti := "cmd:tpmrelay " + filepath.Join(env.WorkDir, "vm", "tpm.sock")
		env.Setenv("TPM2TOOLS_TCTI", tcti)
		env.Setenv("TPM2OPENSSL_TCTI", tcti)
	}))
}

// TestScriptsWithANameService plays testdata/nameservice, where the machine has users who are in no
// file that the agent reads. They run in a mount namespace of their own: the machine's files stay
// as they are.
func TestScriptsWithANameService(t *testing.T) {
	tooltest.Tool(t, "getent")
	tooltest.NameService(t, "extrausers")
	namespace := []string{tooltest.Tool(t, "unshare"), "--mount"}
	if os.Geteuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	if out, err := exec.CommandContext(t.Context(), namespace[0], append(namespace[1:], "mount", "-t", "tmpfs", "none", "/var/lib/extrausers")...).CombinedOutput(); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, out)
	}
	// The program of the tests has the C library in it, for the simulated TPM; the real one has
	// not.
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), tooltest.Tool(t, "go"), "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	testscript.Run(t, params(t, "nameservice", func(env *testscript.Env) {
		env.Setenv("NAMESPACE", strings.Join(namespace[1:], " "))
		env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	}))
}

// platformKeys is the environment variable with the directory of the keys that the simulated
// platforms share.
const platformKeys = "AZURESIM_KEYS"

// promised reports whether a program runs. Where tools are promised it is an error if it does not.
func promised(program *exec.Cmd) (bool, error) {
	err := program.Run()
	if err != nil && os.Getenv(tooltest.RequireEnv) == "1" {
		return false, fmt.Errorf("%v: %w", program.Args, err)
	}
	return err == nil, nil
}

// params is how the scripts of testdata/dir are run, each in an environment that setup, which may
// be nil, completes.
func params(t *testing.T, dir string, setup func(*testscript.Env)) testscript.Params {
	keys := t.TempDir()
	return testscript.Params{
		Dir: filepath.Join("testdata", dir),
		Setup: func(env *testscript.Env) error {
			env.Setenv(platformKeys, keys)
			// Under the race detector a process waits a second before it ends, and a script has
			// dozens of them.
			env.Setenv("GORACE", cmp.Or(os.Getenv("GORACE"), "atexit_sleep_ms=20"))
			if setup != nil {
				setup(env)
			}
			return nil
		},
		RequireExplicitExec: true,
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "mount":
				return exec.CommandContext(context.Background(), "unshare", "--mount", "true").Run() == nil, nil
			case "pty":
				f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
				if err == nil {
					err = f.Close()
				}
				return err == nil, nil
			case "httpx":
				return promised(exec.CommandContext(context.Background(), "/usr/bin/python3", "-c", "import httpx"))
			case "mono":
				return promised(exec.CommandContext(context.Background(), "mcs", "--version"))
			}
			return false, fmt.Errorf("there is no condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":     ready,
			"until":     until,
			"exits":     exits,
			"fault":     addFault,
			"faultless": clearFaults,
			"upload":    uploadCertificate,
			"enrol":     enrolKey,
			"issue":     issueAged,
			"policy":    setPolicy,
			"journal":   countJournal,

			"freeport":   freePort,
			"secretonly": secretOnly,
			"leakless":   leakless,
		},
	}
}

// readyLimit is far above what anything takes to start.
const readyLimit = time.Minute

func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready FILE")
	}
	path := ts.MkAbs(args[0])
	await(ts, path+" to be ready", func(ctx context.Context) bool { return isReady(ctx, ts, path) })
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARG...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	await(ts, args[0], func(context.Context) bool {
		err := ts.Exec(args[1], args[2:]...)
		return err == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// await asks again and again until something is so.
func await(ts *testscript.TestScript, what string, so func(context.Context) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so(ctx) {
		select {
		case <-ctx.Done():
			ts.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func isReady(ctx context.Context, ts *testscript.TestScript, path string) bool {
	if !strings.HasSuffix(path, ".sock") {
		_, err := os.Stat(path)
		return err == nil
	}
	cmd := exec.CommandContext(ctx, "keyagent", "status", "--socket", path)
	cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	return err == nil || failed && exit.ExitCode() == exitFailed // it answers, be it that it is not ready
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// platformInfo reads azuresim.json of the platform in dir.
func platformInfo(ts *testscript.TestScript, dir string) simulator.Info {
	var info simulator.Info
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(filepath.Join(dir, "azuresim.json"))), &info))
	return info
}

func addFault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fault DIR JSON")
	}
	control(ts, http.MethodPost, platformInfo(ts, args[0]).Control+"/faults", args[1])
}

func clearFaults(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: faultless DIR")
	}
	control(ts, http.MethodDelete, platformInfo(ts, args[0]).Control+"/faults", "")
}

func uploadCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: upload DIR APP FILE")
	}
	control(ts, http.MethodPost, platformInfo(ts, args[0]).Control+"/applications/"+args[1]+"/certificates", ts.ReadFile(args[2]))
}

// enrolKey makes a key's certificate by the platform's authority, for an application that trusts it
// by subject and issuer. It needs FILE.csr, and writes FILE.
func enrolKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: enrol DIR APP CN FILE")
	}
	info := platformInfo(ts, args[0])
	chain := control(ts, http.MethodPost, info.Control+"/authority", ts.ReadFile(args[3]+".csr"))
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), chain, 0o600))
	control(ts, http.MethodPost, info.Control+"/applications/"+args[1]+"/trusted?subject="+args[2], ts.ReadFile(info.AppCAFile))
}

func setPolicy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: policy DIR APP JSON")
	}
	control(ts, http.MethodPost, platformInfo(ts, args[0]).Control+"/applications/"+args[1], args[2])
}

func countJournal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: journal DIR LEG COUNT")
	}
	body := control(ts, http.MethodGet, platformInfo(ts, args[0]).Control+"/journal?operation="+args[1], "")
	var entries []json.RawMessage
	ts.Check(json.Unmarshal(body, &entries))
	if want := args[2]; strconv.Itoa(len(entries)) != want {
		ts.Fatalf("%s: %d requests, want %s", args[1], len(entries), want)
	}
}

func control(ts *testscript.TestScript, method, address, body string) []byte {
	req, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(body))
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode >= 300 {
		ts.Fatalf("%s %s: %s: %s", method, address, resp.Status, answer)
	}
	return answer
}
