package systemd_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// maxExposure is what `systemd-analyze security` may say of the service, in tenths.
const maxExposure = 16

// unit is a unit file: its settings by section and name, in their order.
type unit map[string]map[string][]string

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		name, value, is := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		case is && section != "":
			u[section][name] = append(u[section][name], value)
		default:
			t.Fatalf("%s: %q is no setting", path, line)
		}
	}
	return u
}

func unitFiles(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("units", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("units/%s: %v, %v", pattern, files, err)
	}
	return files
}

// analyze runs systemd-analyze, and returns what it says. It is a fault if it says anything on
// standard error: that is where it tells of settings that it does not know, with exit code 0.
func analyze(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Tool(t, "systemd-analyze"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("systemd-analyze %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// installed copies the units to where systemd-analyze finds all of them, with programs that are
// there.
func installed(t *testing.T, dropins ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range unitFiles(t, "*") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`(?m)^(Exec[A-Za-z]+=)(/usr/bin/keyagent|/usr/sbin/nft)`).ReplaceAll(text, []byte("${1}"+program))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range dropins {
		text, err := os.ReadFile(filepath.Join("dropins", name))
		if err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(dir, "keyagent.service.d")
		if err := errors.Join(os.MkdirAll(into, 0o755), os.WriteFile(filepath.Join(into, name), text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSystemdKnowsAllOfTheUnits(t *testing.T) {
	dir := installed(t)
	var paths []string
	for _, path := range unitFiles(t, "*") {
		paths = append(paths, filepath.Join(dir, filepath.Base(path)))
	}
	if said := analyze(t, append([]string{"verify", "--man=no"}, paths...)...); said != "" {
		t.Errorf("it says\n%s", said)
	}
}

func TestTheSandboxIsTight(t *testing.T) {
	dir := installed(t)
	said := analyze(t, "security", "--offline=true", "--threshold="+strconv.Itoa(maxExposure), filepath.Join(dir, "keyagent.service"))
	found := regexp.MustCompile(`Overall exposure level for \S+: (\d+)\.(\d)`).FindStringSubmatch(said)
	if found == nil || found[1]+found[2] > fmt.Sprint(maxExposure) {
		t.Errorf("the exposure is not at most %d tenths:\n%s", maxExposure, said)
	} else {
		t.Logf("exposure %s.%s", found[1], found[2])
	}
}

// Each drop-in is known to systemd as well. What only a newer one knows stands in its own, after
// what older ones know, and must not make the sandbox of these any weaker.
func TestSystemdKnowsTheDropIns(t *testing.T) {
	entries, err := os.ReadDir("dropins")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			dir := installed(t, entry.Name())
			cmd := exec.Command(tooltest.Tool(t, "systemd-analyze"), "verify", "--man=no", filepath.Join(dir, "keyagent.service"))
			out, err := cmd.CombinedOutput()
			ignored := regexp.MustCompile(`(?m)^\S*/30-systemd-257\.conf:\d+: Failed to parse boolean value, ignoring: disconnected\n`)
			if rest := ignored.ReplaceAll(out, nil); err != nil || len(rest) > 0 {
				t.Errorf("%v: %s", err, rest)
			}
		})
	}
}

func TestWhatTheServicePromises(t *testing.T) {
	u := readUnit(t, "units/keyagent.service")
	for _, tt := range []struct{ section, name, want, why string }{
		{"Unit", "StartLimitIntervalSec", "0", "a service that is not started any more takes its sockets down"},
		{"Service", "Type", "notify", "systemd 252 does not know notify-reload"},
		{"Service", "NotifyAccess", "main", "no program that the agent starts may speak for it"},
		{"Service", "Restart", "always", "whatever ends it, clients wait at its sockets"},
		{"Service", "RestartSec", "1", "below 100 ms the sockets trip their own limit"},
		{"Service", "User", "keyagent", "not root"},
		{"Service", "StateDirectoryMode", "0700", "keys and certificates are the agent's alone"},
		{"Service", "CapabilityBoundingSet", "", "the agent needs none"},
		{"Service", "NoExecPaths", "/ /var/lib/keyagent /var/log/keyagent -/run/keyagent /tmp /var/tmp", "what it may run is listed; its own directories are mounts of their own"},
	} {
		if got, there := u[tt.section][tt.name]; !there || strings.Join(got, "|") != tt.want {
			t.Errorf("%s= is %q, want %q: %s", tt.name, got, tt.want, tt.why)
		}
	}
	for name := range u["Unit"] {
		if strings.HasPrefix(name, "Condition") || strings.HasPrefix(name, "Assert") {
			t.Errorf("%s=: a service that is not started takes its sockets down within seconds", name)
		}
	}
	for name, why := range map[string]string{
		"ExecCondition":            "a service that is not started takes its sockets down within seconds",
		"RestartPreventExitStatus": "what ends it must start it again",
		"SupplementaryGroups":      "User= takes the user's groups along",
		"RuntimeDirectory":         "the agent could put other sockets in the place of systemd's",
		"PrivateDevices":           "it hides the TPM",
		"PrivateUsers":             "callers would all be one user",
		"ProcSubset":               "it hides boot_id",
		"ProtectProc":              "before Linux 6.13 the units of callers are in /proc",
	} {
		if value, there := u["Service"][name]; there {
			t.Errorf("%s=%s: %s", name, value, why)
		}
	}
	for _, credential := range u["Service"]["LoadCredential"] {
		if strings.Contains(credential, ":") {
			t.Errorf("LoadCredential=%s has a path: a file that is not there keeps the service from starting", credential)
		}
	}
	for _, cgroups := range u["Service"]["ProtectControlGroups"] {
		if cgroups != "yes" {
			t.Errorf("ProtectControlGroups=%s: the units that rules name must be in sight", cgroups)
		}
	}
}

// Connections at their bound must leave descriptors for everything else. Each holds its own and its
// caller's process, and one of those to the agent's socket may have one to a resource.
func TestTheServiceHasDescriptorsForAllConnections(t *testing.T) {
	service := readUnit(t, "units/keyagent.service")["Service"]
	limit, err := strconv.Atoi(strings.Join(service["LimitNOFILE"], "|"))
	if err != nil {
		t.Fatal(err)
	}
	const others = 1024
	ways := len(strings.Fields(strings.Join(service["Sockets"], " ")))
	if need := (2*ways+1)*agentapi.DefaultMaxConnections + others; limit < need {
		t.Errorf("LimitNOFILE=%d, and %d ways into the agent need %d", limit, ways, need)
	}
}

// A directory that has programs beside libraries would let a compromised agent run them.
func TestTheServiceRunsItselfAndGetentAlone(t *testing.T) {
	want := []string{
		"/usr/bin/keyagent", "/usr/bin/getent",
		"-/usr/lib/x86_64-linux-gnu", "-/usr/lib/aarch64-linux-gnu", "-/usr/lib64", "-/usr/lib32",
		"-/lib64/ld-linux-x86-64.so.2", "-/lib/ld-linux-aarch64.so.1",
	}
	paths := strings.Fields(strings.Join(readUnit(t, "units/keyagent.service")["Service"]["ExecPaths"], " "))
	if !slices.Equal(paths, want) {
		t.Errorf("ExecPaths= is %q, want %q", paths, want)
	}
}

// What getent loads on this machine, the modules of name services among it, is in those paths.
func TestGetentFindsItsLibrariesAmongTheExecPaths(t *testing.T) {
	out, err := exec.Command(tooltest.Tool(t, "ldd"), tooltest.Tool(t, "getent")).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`/\S+`).FindAllString(string(out), -1)
	for _, pattern := range []string{"/usr/lib/*-linux-gnu/libnss_*.so.2", "/usr/lib64/libnss_*.so.2"} {
		modules, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, modules...)
	}
	if len(files) == 0 {
		t.Fatal("it loads nothing")
	}
	paths := strings.Fields(strings.Join(readUnit(t, "units/keyagent.service")["Service"]["ExecPaths"], " "))
	for _, file := range files {
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(paths, func(path string) bool {
			allowed, err := filepath.EvalSymlinks(strings.TrimPrefix(path, "-"))
			return err == nil && (real == allowed || strings.HasPrefix(real, allowed+"/"))
		}) {
			t.Errorf("%s (%s) is in none of them", file, real)
		}
	}
}

// The units are held to what the agent knows: the names of its sockets, and where it looks for
// them.
func TestEachWayIntoTheAgentHasItsSocket(t *testing.T) {
	service := readUnit(t, "units/keyagent.service")
	named := strings.Fields(strings.Join(service["Service"]["Sockets"], " "))
	listen := map[string]string{}
	for _, path := range unitFiles(t, "*.socket") {
		u, name := readUnit(t, path), filepath.Base(path)
		if !slices.Contains(named, name) {
			t.Errorf("%s: the service does not name it in Sockets=, so that its restart would not open it", name)
		}
		if got := u["Socket"]["Service"]; len(got) != 1 || got[0] != "keyagent.service" {
			t.Errorf("%s: Service=%q", name, got)
		}
		if _, there := u["Socket"]["SocketProtocol"]; there {
			t.Errorf("%s: SocketProtocol=: Multipath TCP hides who owns the other end", name)
		}
		if strings.Join(u["Install"]["WantedBy"], " ") != "sockets.target" {
			t.Errorf("%s: WantedBy=%q", name, u["Install"]["WantedBy"])
		}
		listen[strings.Join(u["Socket"]["FileDescriptorName"], "|")] = strings.Join(u["Socket"]["ListenStream"], "|")
		conditions := u["Unit"]["ConditionPathIsSymbolicLink"]
		if name == "keyagent.socket" {
			if len(conditions) > 0 {
				t.Errorf("%s has conditions %q", name, conditions)
			}
			continue
		}
		for _, condition := range conditions {
			if !strings.HasPrefix(condition, "|/") || !strings.HasSuffix(condition, "/sockets.target.wants/"+name) {
				t.Errorf("%s: condition %q", name, condition)
			}
		}
		if len(conditions) != 3 {
			t.Errorf("%s: it is opened without being enabled", name)
		}
	}
	want := map[string]string{
		"keyagent": "/run/keyagent/agent.sock", "admin": "/run/keyagent/admin.sock", "app-service": "127.0.0.1:840",
		"imds": "127.0.0.1:841", "takeover": "127.0.0.1:842", "metrics": "127.0.0.1:9464",
	}
	for name, address := range want {
		if listen[name] != address {
			t.Errorf("the socket %s is at %q, want %q", name, listen[name], address)
		}
	}
	if len(listen) != len(want) || len(named) != len(want) {
		t.Errorf("sockets %v, Sockets= %q", listen, named)
	}
}

func TestThePresetLeavesEverythingOff(t *testing.T) {
	text, err := os.ReadFile("system-preset/80-keyagent.preset")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range unitFiles(t, "*") {
		if !strings.Contains(string(text), "\ndisable "+filepath.Base(path)+"\n") {
			t.Errorf("%s is not disabled", filepath.Base(path))
		}
	}
	if strings.Contains(string(text), "enable ") && strings.Contains(strings.ReplaceAll(string(text), "disable ", ""), "enable ") {
		t.Errorf("something is enabled:\n%s", text)
	}
}

// systemd-sysusers makes the user in a tree of its own.
func TestTheUserIsAMemberOfTheTPMsGroup(t *testing.T) {
	sysusers := tooltest.Tool(t, "systemd-sysusers")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf, err := filepath.Abs("sysusers.d/keyagent.conf")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is to do
		if out, err := exec.Command(sysusers, "--root="+root, conf).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	group, err := os.ReadFile(filepath.Join(root, "etc/group"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^tss:x:\d+:keyagent$`).Match(group) {
		t.Errorf("groups are\n%s", group)
	}
}
