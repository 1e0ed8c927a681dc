package packaging_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A step is one call of a script by dpkg or rpm. Both are told in the order in which they call, see
// deb-maintscript(5) ("Debian policy 6.5") and rpm-scriptlets(7).
type step struct {
	script string
	args   []string
}

// programs are what the scripts call. Each notes what it was called with, and may be told to fail.
var programs = []string{"systemctl", "systemd-sysusers", "systemd-tmpfiles"}

func TestScriptsStartNothingAndNeverTouchASocketThatListens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		steps []step
		calls []string // of systemctl
		says  string
	}{
		{
			"dpkg installs",
			[]step{{"preinst", []string{"install"}}, {"postinst", []string{"configure", ""}}},
			[]string{"daemon-reload"},
			"keyagent setup",
		},
		{
			"dpkg upgrades",
			[]step{
				{"prerm", []string{"upgrade", "2-1"}}, {"preinst", []string{"upgrade", "1-1", "2-1"}},
				{"postrm", []string{"upgrade", "2-1"}}, {"postinst", []string{"configure", "1-1"}},
			},
			[]string{"daemon-reload", "try-restart keyagent.service"},
			"",
		},
		{
			"dpkg removes",
			[]step{{"prerm", []string{"remove"}}, {"postrm", []string{"remove"}}},
			[]string{"disable --now keyagent-imds.socket keyagent.service keyagent.socket", "daemon-reload"},
			"",
		},
		{
			"dpkg installs what was removed and not purged",
			[]step{{"preinst", []string{"install", "1-1", "2-1"}}, {"postinst", []string{"configure", "1-1"}}},
			[]string{"daemon-reload"},
			"keyagent setup",
		},
		{
			"dpkg purges what is removed already",
			[]step{{"postrm", []string{"purge"}}},
			[]string{"daemon-reload"},
			"the keys in /var/lib/keyagent are kept",
		},
		{
			"dpkg gives an upgrade up",
			[]step{{"postinst", []string{"abort-upgrade", "2-1"}}, {"postrm", []string{"abort-upgrade", "1-1"}}, {"preinst", []string{"abort-upgrade", "2-1"}}},
			nil,
			"",
		},
		{
			"rpm installs",
			[]step{{"preinst", []string{"1"}}, {"postinst", []string{"1"}}, {"posttrans", []string{"1"}}},
			[]string{"daemon-reload"},
			"keyagent setup",
		},
		{
			"rpm upgrades",
			[]step{
				{"preinst", []string{"2"}}, {"postinst", []string{"2"}},
				{"prerm", []string{"1"}}, {"postrm", []string{"1"}}, {"posttrans", []string{"2"}},
			},
			[]string{"daemon-reload", "daemon-reload", "try-restart keyagent.service"},
			"",
		},
		{
			"rpm erases",
			[]step{{"prerm", []string{"0"}}, {"postrm", []string{"0"}}},
			[]string{"disable --now keyagent-imds.socket keyagent.service keyagent.socket", "daemon-reload"},
			"the keys in /var/lib/keyagent are kept",
		},
	} {
		for _, failing := range []string{"", "systemctl", "systemd-sysusers", "systemd-tmpfiles"} {
			t.Run(tt.name+", failing: "+failing, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, failing)
				said := m.run(t, tt.steps)
				m.checkCalls(t, tt.calls)
				if !strings.Contains(said, tt.says) {
					t.Errorf("the operator was told %q, and not %q", said, tt.says)
				}
				if !m.has("var/lib/keyagent/keys/app/1.tss.pem") {
					t.Error("the key is gone")
				}
			})
		}
	}
}

func TestScriptsDoNothingToUnitsWhereSystemdDoesNotRun(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	if err := os.RemoveAll(filepath.Join(m.root, "run/systemd")); err != nil {
		t.Fatal(err)
	}
	m.run(t, []step{
		{"preinst", []string{"install"}}, {"postinst", []string{"configure", ""}},
		{"preinst", []string{"upgrade", "1-1", "2-1"}}, {"postinst", []string{"configure", "1-1"}},
	})
	m.checkCalls(t, nil)
	m.run(t, []step{{"prerm", []string{"remove"}}})
	m.checkCalls(t, []string{"--root=" + m.root + "/ disable keyagent-imds.socket keyagent.service keyagent.socket"})
}

func TestKeysAreForgottenOnlyAfterTheOperatorSaidSo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		step  step
		flag  bool   // whether there is /etc/keyagent/purge-keys
		notes string // of the key
		kept  bool
		says  string
	}{
		{"a purge", step{"postrm", []string{"purge"}}, false, `{}`, true, "are kept"},
		{"a purge with the file", step{"postrm", []string{"purge"}}, true, `{}`, false, ""},
		{"an rpm erase", step{"postrm", []string{"0"}}, false, `{}`, true, "are kept"},
		{"an rpm erase with the file", step{"postrm", []string{"0"}}, true, `{}`, false, ""},
		{"a removal with the file", step{"postrm", []string{"remove"}}, true, `{}`, true, ""},
		{"an upgrade with the file", step{"postrm", []string{"upgrade", "2-1"}}, true, `{}`, true, ""},
		{"an rpm upgrade with the file", step{"postrm", []string{"1"}}, true, `{}`, true, ""},
		{
			"a purge with the file, of a key that is still in the TPM", step{"postrm", []string{"purge"}}, true,
			`{"persistent_handle": "0x81010001"}`, true, "still in the TPM, at 0x81010001",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "")
			m.write(t, "var/lib/keyagent/keys/app/1.json", tt.notes)
			if tt.flag {
				m.write(t, "etc/keyagent/purge-keys", "")
			}
			said := m.run(t, []step{tt.step})
			if m.has("var/lib/keyagent/keys/app/1.tss.pem") != tt.kept {
				t.Errorf("the key is there: %v", !tt.kept)
			}
			if !strings.Contains(said, tt.says) {
				t.Errorf("the operator was told %q, and not %q", said, tt.says)
			}
		})
	}
}

// The agent's user made these files, and root reads them.
func TestAPurgeNeitherWaitsForAPipeNorFollowsALink(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write(t, "etc/keyagent/purge-keys", "")
	m.write(t, "elsewhere.json", `{"persistent_handle": "0x81010001"}`)
	keys := filepath.Join(m.root, "var/lib/keyagent/keys/app")
	err := errors.Join(
		syscall.Mkfifo(filepath.Join(keys, "1.json"), 0o600),
		os.Symlink(filepath.Join(m.root, "elsewhere.json"), filepath.Join(keys, "2.json")))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() { ended <- m.run(t, []step{{"postrm", []string{"purge"}}}) }()
	select {
	case said := <-ended:
		if strings.Contains(said, "0x81010001") || m.has("var/lib/keyagent") || !m.has("elsewhere.json") {
			t.Errorf("the link was followed: %s", said)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for the pipe")
		if pipe, err := os.OpenFile(filepath.Join(keys, "1.json"), os.O_WRONLY, 0); err == nil {
			_ = pipe.Close()
		}
		<-ended
	}
}

func TestAnUpgradeTellsOfSocketsThatListenElsewhereFromNowOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		before, after []step
	}{
		{"dpkg", []step{{"preinst", []string{"upgrade", "1-1", "2-1"}}}, []step{{"postinst", []string{"configure", "1-1"}}}},
		{"rpm", []step{{"preinst", []string{"2"}}}, []step{{"postinst", []string{"2"}}, {"posttrans", []string{"2"}}}},
	} {
		for changed, want := range map[string]bool{"ListenStream=/run/elsewhere.sock": true, "Description=other words": false} {
			t.Run(tt.name+", "+changed, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, "")
				m.run(t, tt.before)
				m.write(t, "usr/lib/systemd/system/keyagent.socket", "[Socket]\nListenStream=/run/keyagent/agent.sock\n"+changed+"\n")
				said := m.run(t, tt.after)
				if got := strings.Contains(said, "this version's sockets differ"); got != want {
					t.Errorf("the operator was told %q", said)
				}
				if m.has("run/keyagent-package") {
					t.Error("the note of before is still there")
				}
			})
		}
	}
}

// A machine has the package's files, systemd running, a key, and programs that note their calls.
type machine struct{ root string }

func newMachine(t *testing.T, failing string) machine {
	t.Helper()
	m := machine{t.TempDir()}
	for _, name := range programs {
		status := "0"
		if name == failing {
			status = "1"
		}
		m.write(t, "bin/"+name, "#!/bin/sh\necho \"$*\" >>'"+m.root+"/"+name+".calls'\nexit "+status+"\n")
	}
	m.write(t, "run/systemd/system/.keep", "")
	m.write(t, "usr/lib/systemd/system/keyagent.service", "[Service]\n")
	m.write(t, "usr/lib/systemd/system/keyagent.socket", "[Socket]\nListenStream=/run/keyagent/agent.sock\n")
	m.write(t, "usr/lib/systemd/system/keyagent-imds.socket", "[Socket]\nListenStream=127.0.0.1:841\n")
	m.write(t, "var/lib/keyagent/keys/app/1.tss.pem", "key")
	return m
}

func (m machine) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (m machine) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.root, name))
	return err == nil
}

// run runs scripts and returns what they said. Each must end well, whatever went wrong in it. dpkg
// tells them by DPKG_ROOT where they work (dpkg --root); rpm changes the root instead, so that
// posttrans knows no such name.
func (m machine) run(t *testing.T, steps []step) string {
	t.Helper()
	var said strings.Builder
	for _, s := range steps {
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{m.script(t, s.script)}, s.args...)...)
		cmd.Env = []string{"PATH=" + filepath.Join(m.root, "bin") + ":/usr/bin:/bin", "DPKG_ROOT=" + m.root}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %q: %v\n%s", s.script, s.args, err, out)
		}
		said.Write(out)
	}
	return said.String()
}

func (m machine) script(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("scripts", name))
	if err != nil {
		t.Fatal(err)
	}
	if name == "posttrans" {
		text = []byte(strings.NewReplacer(" /run/", " "+m.root+"/run/", "=/run/", "="+m.root+"/run/", " /usr/lib/systemd", " "+m.root+"/usr/lib/systemd").Replace(string(text)))
	}
	m.write(t, "scripts/"+name, string(text))
	return filepath.Join(m.root, "scripts", name)
}

// checkCalls compares what systemctl was called with since the last time.
func (m machine) checkCalls(t *testing.T, want []string) {
	t.Helper()
	path := filepath.Join(m.root, "systemctl.calls")
	noted, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	_ = os.Remove(path)
	if got := strings.TrimSpace(string(noted)); got != strings.Join(want, "\n") {
		t.Errorf("systemctl was called with\n%s\nand not\n%s", got, strings.Join(want, "\n"))
	}
	for call := range strings.SplitSeq(string(noted), "\n") {
		if strings.Contains(call, "restart") && strings.Contains(call, ".socket") {
			t.Errorf("systemctl %s: nobody listens afterwards", call)
		}
	}
}
