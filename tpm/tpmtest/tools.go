package tpmtest

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// relayTo, when set, makes a test binary a relay between its standard input and output and a TPM's
// Unix socket: what the "cmd" transport of tpm2-tools and of OpenSSL's tpm2 provider starts.
const relayTo = "KEYAGENT_TEST_RELAY_TO"

// Relay makes [Tools] work. TestMain calls it first; where the process was started as a relay, it
// does not return.
func Relay() {
	if device := os.Getenv(relayTo); device != "" {
		os.Exit(relay(strings.TrimPrefix(device, "unix:")))
	}
}

func relay(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 1
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin) // ends with the tool
		os.Exit(0)
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return 1
	}
	return 0
}

// Tools lets other people's programs, tpm2-tools and OpenSSL with its tpm2 provider, work on a TPM
// and in a folder of their own. If that is a swtpm, nothing else may be connected to it meanwhile.
type Tools struct {
	Dir string
	// Env is added to the environment of the programs: "NAME=value".
	Env    []string
	device string
	untidy bool // nobody flushes what a client leaves behind
}

// NewTools prepares a folder for programs that work on a TPM: [Simulator], [Bare], [Swtpm] or a
// [Machine]. The test's TestMain must call [Relay].
func NewTools(t testing.TB, on interface{ Device() string }) *Tools {
	t.Helper()
	_, soft := on.(*SoftTPM)
	return &Tools{Dir: t.TempDir(), device: on.Device(), untidy: soft}
}

// TCTI is how a program of tpm2-tss that [Tools] runs reaches the TPM, for those that read it from
// a file.
func (w *Tools) TCTI(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "cmd:" + self
}

// Run runs a program, expects success, and returns what it said.
func (w *Tools) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := w.run(t, name, args)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Fail runs a program, expects that it fails, and returns what it said.
func (w *Tools) Fail(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := w.run(t, name, args)
	if err == nil {
		t.Errorf("%s %s: succeeded\n%s", name, strings.Join(args, " "), out)
	}
	return out
}

func (w *Tools) run(t testing.TB, name string, args []string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...) // #nosec G204 -- the judge
	cmd.Dir = w.Dir
	tcti := w.TCTI(t)
	cmd.Env = append(append(os.Environ(), w.Env...), relayTo+"="+w.device, "TPM2TOOLS_TCTI="+tcti, "TPM2OPENSSL_TCTI="+tcti, "TSS2_LOG=all+none",
		"GORACE=atexit_sleep_ms=0") // else a relay that looks for races lingers for a second
	out, err := cmd.CombinedOutput()
	if w.untidy {
		w.tidy(t)
	}
	return string(out), err
}

// tidy flushes what a program left in the TPM, as the kernel's resource manager does when its
// client goes. Sessions that were saved to a file stay.
func (w *Tools) tidy(t testing.TB) {
	t.Helper()
	conn, err := linuxudstpm.Open(strings.TrimPrefix(w.device, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTLoadedSession} {
		if err := flushAll(conn, kind); err != nil {
			t.Fatal(err)
		}
	}
}

func flushAll(conn transport.TPM, kind tpm2.TPMHT) error {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 64}.Execute(conn)
	if err != nil {
		return err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return err
	}
	for _, h := range list.Handle {
		if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(conn); err != nil {
			return err
		}
	}
	return nil
}

// Write puts a file into the folder.
func (w *Tools) Write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(w.Path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Read returns a file of the folder.
func (w *Tools) Read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(w.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Path is where a file of the folder is.
func (w *Tools) Path(name string) string { return filepath.Join(w.Dir, name) }

// CreateRoot makes root.ctx, the primary that parent 0x40000001 of a key file stands for. Without
// attributes, the one of tpm2-tools would be another: it lacks noDA.
func (w *Tools) CreateRoot(t testing.TB) {
	t.Helper()
	w.Run(t, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "root.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
}
