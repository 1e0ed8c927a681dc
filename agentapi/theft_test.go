package agentapi_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// thief is another user, whom the rules name, too.
const thief = 65533

// forTwo gives two users one identity.
func forTwo() agentapi.Config {
	cfg := onlyShop()
	cfg.Policy.Rules[0].UIDs = append(cfg.Policy.Rules[0].UIDs, thief)
	return cfg
}

// Programs are real processes of real users. What a secret is worth in other hands: nothing.
func TestAStolenSecret(t *testing.T) {
	needRoot(t)
	a := startPrograms(t, forTwo())
	target := a.appService + "/msi/token?api-version=2019-08-01&resource=" + vault
	owner := a.startProgram(t, appUser, "?identity=shop", nil)
	want := func(t *testing.T, who *program, status, reason string) {
		t.Helper()
		got, body := who.ask(target)
		record := a.audit.lastRecord(t)
		if got != status || strings.Contains(body, tokenText) != (status == "200") {
			t.Errorf("got %s %s, want %s", got, body, status)
		}
		if told, _ := record["reason"].(string); told != reason || record["endpoint"] != "app-service" {
			t.Errorf("audit %v, want the reason %q", record, reason)
		}
	}
	t.Run("is good for whom it was given to", func(t *testing.T) { want(t, owner, "200", "") })
	t.Run("is nothing to another user, whom the rules give the same", func(t *testing.T) {
		other := a.startProgram(t, thief, "?identity=shop", nil)
		want(t, other, "200", "") // with its own
		other.tell("secret " + owner.secret)
		want(t, other, "403", "the secret was given to another user")
	})
	t.Run("is good for another process of the same user: the boundary is the user", func(t *testing.T) {
		other := a.startProgram(t, appUser, "?identity=shop", nil)
		other.tell("secret " + owner.secret)
		want(t, other, "200", "")
	})
	t.Run("ends with the process that it was given to", func(t *testing.T) {
		other := a.startProgram(t, appUser, "?identity=shop", nil)
		stolen := other.secret
		other.end()
		owner.tell("secret " + stolen)
		want(t, owner, "403", "the process that the secret was given to has ended")
		owner.tell("secret " + owner.secret)
		want(t, owner, "200", "")
	})
	t.Run("stays with the process when that becomes another program", func(t *testing.T) {
		other := a.startProgram(t, appUser, "?identity=shop", nil)
		other.tell("become /bin/cat")
		if got := other.line(); got != "cat" {
			t.Fatalf("it says %q", got)
		}
		owner.tell("secret " + other.secret)
		want(t, owner, "200", "")
		other.end()
		want(t, owner, "403", "the process that the secret was given to has ended")
	})
	t.Run("is not written down", func(t *testing.T) {
		for name, text := range map[string]string{"audit": a.audit.String(), "log": a.log.String()} {
			if strings.Contains(text, owner.secret[len(owner.secret)-20:]) {
				t.Errorf("the %s has it", name)
			}
		}
	})
}

// A unit has a cgroup of its own, from its start to its end.
func TestASecretOfAUnit(t *testing.T) {
	needRoot(t)
	path, unit := cgroupOf(t, "unit")
	_, otherUnit := cgroupOf(t, "other")
	a := startPrograms(t, forTwo())
	target := a.appService + "/msi/token?api-version=2019-08-01&resource=" + vault
	first := a.startProgram(t, appUser, "?identity=shop&lifetime=unit", unit)
	if strings.HasPrefix(first.secret, "400") {
		t.Skipf("the kernel does not tell the cgroup of a process: %s", first.secret)
	}
	for _, tt := range []struct {
		name   string
		uid    int
		cgroup *os.File
		status string
		reason string
	}{
		{"a process of the unit", appUser, unit, "200", ""},
		{"a process of another unit", appUser, otherUnit, "403", "the secret was given in another systemd unit or cgroup"},
		{"a process of no unit", appUser, nil, "403", "the secret was given in another systemd unit or cgroup"},
		{"another user in the unit", thief, unit, "403", "the secret was given to another user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := a.startProgram(t, tt.uid, "?identity=shop", tt.cgroup)
			other.tell("secret " + first.secret)
			if got, body := other.ask(target); got != tt.status {
				t.Errorf("got %s %s", got, body)
			}
			if told, _ := a.audit.lastRecord(t)["reason"].(string); told != tt.reason {
				t.Errorf("the reason is %q, want %q", told, tt.reason)
			}
			other.end()
		})
	}
	t.Run("it outlives the process that asked for it", func(t *testing.T) {
		first.end()
		other := a.startProgram(t, appUser, "?identity=shop", unit)
		other.tell("secret " + first.secret)
		if got, body := other.ask(target); got != "200" {
			t.Errorf("got %s %s", got, body)
		}
		other.end()
	})
	t.Run("it ends with the unit", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, again := cgroupOf(t, "unit")
		other := a.startProgram(t, appUser, "?identity=shop", again)
		other.tell("secret " + first.secret)
		if got, body := other.ask(target); got != "403" {
			t.Errorf("got %s %s", got, body)
		}
		other.end()
	})
	t.Run("a process in the root of all cgroups gets none", func(t *testing.T) {
		other := a.startProgram(t, appUser, "?identity=shop&lifetime=unit", nil)
		if !strings.Contains(other.secret, "it is not known in which cgroup the caller is") {
			t.Skipf("the test itself runs in a cgroup of its own: %s", other.secret)
		}
	})
}

// On loopback nothing but the user and the unit is known, so a rule for a group gives nothing
// there, and no secret is given in vain.
func TestRulesThatDoNotReachLoopback(t *testing.T) {
	needRoot(t)
	cfg := onlyShop()
	cfg.Policy.Rules[0].UIDs, cfg.Policy.Rules[0].GIDs = nil, []uint32{uint32(appUser)}
	a := startPrograms(t, cfg)
	got := a.startProgram(t, appUser, "?identity=shop", nil).secret
	if !strings.HasPrefix(got, "403 ") || !strings.Contains(got, string(wire.CodeNotAllowed)) || !strings.Contains(got, "names the user or the systemd unit") {
		t.Errorf("got %s", got)
	}
	t.Run("root alone is nobody", func(t *testing.T) {
		cfg := onlyShop()
		cfg.Policy.Rules[0].UIDs = []uint32{0}
		a := startPrograms(t, cfg)
		if got := a.startProgram(t, 0, "?identity=shop", nil).secret; !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "root of any container") {
			t.Errorf("got %s", got)
		}
	})
	if said := askLoopback(t, "GET", a.imds+wire.PathIMDSToken+"?api-version=2018-02-01&resource="+vault, "Metadata", "true"); said.status != 403 {
		t.Errorf("IMDS: %d %s", said.status, said.body)
	}
}
