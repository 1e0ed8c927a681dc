package simulator_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/eventlog"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func start(t *testing.T) *simulator.Platform {
	t.Helper()
	dir, err := os.MkdirTemp("", "sim") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	p, err := simulator.Start(t.Context(), simulator.Config{Dir: filepath.Join(dir, "made")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return p
}

// call makes a request to the control endpoint and returns status and body.
func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestFilesOfAPlatform(t *testing.T) {
	p := start(t)
	info := p.Info()
	dir := filepath.Dir(info.ConfigFile)
	ready, err := os.ReadFile(filepath.Join(dir, "azuresim.json"))
	if err != nil {
		t.Fatal(err)
	}
	var written simulator.Info
	if err := json.Unmarshal(ready, &written); err != nil {
		t.Fatal(err)
	}
	if written.IMDS != info.IMDS || written.Control == "" || written.TPM != info.TPM || len(written.Identities) != 2 ||
		written.Login != info.Login || written.Login == "" || len(written.Applications) != 2 || written.Applications[1] != info.Applications[1] ||
		written.AssertionIssuer != info.Login+"/"+info.TenantID+"/v2.0" {
		t.Errorf("azuresim.json: %s", ready)
	}
	for _, file := range []string{info.AMDRootsFile, info.VTPMRootsFile, info.CAFile} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := attest.ParseCertificates(data); err != nil || bytes.Contains(data, []byte("PRIVATE")) {
			t.Errorf("%s: %v", file, err)
		}
	}
	checkConfiguration(t, info)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "azuresim.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("azuresim.json still says that the platform is ready")
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t)
}

// checkConfiguration compares the agent's configuration with what an operator would write.
func checkConfiguration(t *testing.T, info simulator.Info) {
	t.Helper()
	data, err := os.ReadFile(info.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	application := func(name, id string) string {
		return "  - name: " + name + "\n    application:\n      tenant: " + info.TenantID + "\n      client_id: " + id +
			"\n      login_endpoint: \"" + info.Login + "\"\n      mtls_endpoint: \"" + info.MTLSAuth + "\"\n      credentials:\n"
	}
	for _, want := range []string{
		"tpm: \"" + info.TPM + "\"\n", "imds_endpoint: \"" + info.IMDS + "\"\n",
		"identities:\n  - name: vm\n    managed_identity: {}\n" +
			"  - name: vm-user\n    managed_identity: {client_id: \"" + info.Identities[1].ClientID + "\"}\n" +
			application("app-fic", info.Applications[0].ClientID) +
			"        - source: managed_identity\n          managed_identity: {client_id: " + info.Identities[1].ClientID + "}\n" +
			application("app-cert", info.Applications[1].ClientID) +
			"        - source: certificate\n          key: app\nrules:\n",
		"    identities: [vm, vm-user, app-fic, app-cert]\n", "    types: [bearer, mtls_pop]\n    fresh: true\n",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the agent's configuration does not have\n%s\nbut is\n%s", want, data)
		}
	}
}

// Each start in a directory is a new machine, whose agent would not start on the earlier one's
// state.
func TestStateOfAnEarlierMachineIsMovedAway(t *testing.T) {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	state := filepath.Join(dir, "state")
	run := func(stays bool) string {
		t.Helper()
		if err := os.MkdirAll(state, 0o700); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		p, err := simulator.Start(t.Context(), simulator.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(state); (err == nil) != stays {
			t.Errorf("the state directory: %v", err)
		}
		return log.String()
	}
	if log := run(true); strings.Contains(log, "moved") {
		t.Errorf("in a directory without a machine before: %s", log)
	}
	for _, old := range []string{"state.old-1", "state.old-2"} {
		if log := run(false); !strings.Contains(log, filepath.Join(dir, old)) {
			t.Errorf("the log does not say where it is: %s", log)
		}
		if _, err := os.Stat(filepath.Join(dir, old)); err != nil {
			t.Error(err)
		}
	}
}

func TestOnePlatformPerDirectory(t *testing.T) {
	p := start(t)
	dir := filepath.Dir(p.Info().ConfigFile)
	if _, err := simulator.Start(t.Context(), simulator.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another platform") {
		t.Errorf("a second platform in the directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "azuresim.json")); err != nil {
		t.Errorf("the refused start has touched the first one's files: %v", err)
	}
}

func TestControl(t *testing.T) {
	p := start(t)
	control, metadata := p.Info().Control, p.Info().IMDS+"/metadata/identity/getplatformmetadata"

	if status, body := call(t, http.MethodPost, control+"/faults", `{"operation":"imds.getplatformmetadata","kind":"status","status":503,"count":1}`); status != 200 || !strings.Contains(body, "503") {
		t.Errorf("POST /faults: %d %s", status, body)
	}
	if status, body := call(t, http.MethodPost, control+"/faults", `{"operation":"imds","kind":"reset"}`); status != 400 || !strings.Contains(body, "imds.issuecredential") {
		t.Errorf("a fault for an operation that does not exist: %d %s", status, body)
	}
	for i, want := range []int{503, 400} { // the fault, then the service, which misses its header
		if status, _ := call(t, http.MethodGet, metadata, ""); status != want {
			t.Errorf("request %d: %d, want %d", i, status, want)
		}
	}
	if err := p.Faults().Add(fault.Fault{Operation: imds.OpTHIM, Kind: fault.Reset}); err != nil {
		t.Fatal(err)
	}
	if status, body := call(t, http.MethodDelete, control+"/faults", ""); status != 200 || strings.TrimSpace(body) != "[]" {
		t.Errorf("DELETE /faults: %d %s", status, body)
	}

	var entries []journal.Entry
	_, body := call(t, http.MethodGet, control+"/journal?operation=imds.getplatformmetadata", "")
	if err := json.Unmarshal([]byte(body), &entries); err != nil || len(entries) != 2 || entries[0].Outcome != journal.Faulted || entries[1].Outcome != journal.Refused {
		t.Errorf("journal: %v %s", err, body)
	}
	if _, body := call(t, http.MethodGet, control+"/journal?operation=none", ""); strings.TrimSpace(body) != "[]" {
		t.Errorf("empty journal: %s", body)
	}
}

func TestControlOfTheClock(t *testing.T) {
	p := start(t)
	control := p.Info().Control
	before := p.Clock().Now()
	if status, body := call(t, http.MethodPost, control+"/clock", `{"advance":"192h"}`); status != 200 || !strings.Contains(body, "now") {
		t.Errorf("POST /clock: %d %s", status, body)
	}
	if moved := p.Clock().Now().Sub(before); moved < 192*time.Hour {
		t.Errorf("the clock moved by %v", moved)
	}
	for _, bad := range []string{`{"advance":"-1h"}`, `{"advance":5}`, `{"forward":"1h"}`, ``} {
		if status, _ := call(t, http.MethodPost, control+"/clock", bad); status != 400 {
			t.Errorf("POST /clock %s: %d, want 400", bad, status)
		}
	}
	if status, _ := call(t, http.MethodPost, control+"/certificates/revoke", `{}`); status != 400 {
		t.Errorf("revoking nothing: %d, want 400", status)
	}
	if status, _ := call(t, http.MethodPost, control+"/certificates/revoke", `{"thumbprint":"x"}`); status != 404 {
		t.Errorf("revoking an unknown certificate: %d, want 404", status)
	}
}

func TestTPMOfThePlatform(t *testing.T) {
	p := start(t)
	on := tpmtest.Connect(t, p.Info().TPM)
	certificate, err := on.ReadNV(t.Context(), collect.NVAKCertificate)
	if err != nil || len(certificate) < 500 || certificate[0] != 0x30 {
		t.Errorf("AK certificate of %d bytes: %v", len(certificate), err)
	}
	report, err := on.ReadNV(t.Context(), collect.NVHCLReport)
	if err != nil || len(report) != 2600 || string(report[:4]) != "HCLA" {
		t.Errorf("HCL report of %d bytes: %v", len(report), err)
	}
	key := tpmtest.CreateKey(t, on)
	if status, body := call(t, http.MethodPost, p.Info().Control+"/tpm/reset", ""); status != 200 || !strings.Contains(body, `"reset_count":`) {
		t.Fatalf("POST /tpm/reset: %d %s", status, body)
	}
	if _, err := on.Certify(t.Context(), key, collect.HandleAK, []byte("after a reboot")); err != nil {
		t.Errorf("the AK after a reset: %v", err)
	}
}

// The registers of the TPM are what the log beside it says, and are so again after a reboot.
func TestTheEventLogIsThatOfTheTPM(t *testing.T) {
	p := start(t)
	log, err := os.ReadFile(p.Info().EventLogFile)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		on := tpmtest.Connect(t, p.Info().TPM)
		quote, err := on.Quote(t.Context(), collect.HandleAK, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12}, []byte("a nonce"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := eventlog.Read(log, quote.PCRs)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.NotReplayed) != 0 || f.SecureBoot != eventlog.SecureBootEnabled || len(f.BootLoaders) != 3 || len(f.CommandLines) != 1 || f.Padding == 0 {
			t.Errorf("facts: %+v", f)
		}
		if status, body := call(t, http.MethodPost, p.Info().Control+"/tpm/reset", ""); status != 200 {
			t.Fatalf("POST /tpm/reset: %d %s", status, body)
		}
	}
}

func TestStartRefusesADirectoryTooDeepForASocket(t *testing.T) {
	_, err := simulator.Start(t.Context(), simulator.Config{Dir: filepath.Join(t.TempDir(), strings.Repeat("deep", 30))})
	if err == nil || !strings.Contains(err.Error(), "shorter directory") {
		t.Errorf("error: %v", err)
	}
}
