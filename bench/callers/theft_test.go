package callers_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/simulator"
)

const (
	// MSAL has no clock but the real one, and its assertions live ten minutes, and five more for
	// clocks that differ. Within these the stolen token must have ended, for which the resource
	// allows a minute and the token endpoint, whose assertion it is, five.
	stolenLife = 5 * time.Minute
	afterwards = stolenLife + 5*time.Minute + 15*time.Second

	certificateLife = 24 * time.Hour // of certificates that this program makes

	certificateApp = "app-cert"
	federatedApp   = "app-fic" // it trusts the VM's user-assigned identity
	vault          = "https://vault.azure.net"
)

// The names of the token endpoints in the public cloud, under which the thief and a wiretap know
// those of the platform.
const (
	mtlsName  = "mtlsauth.microsoft.com"
	loginName = "login.microsoftonline.com"
)

// loot is what the thief takes away: everything but what is in the TPM. As JSON it is the thief's
// file loot.json.
type loot struct {
	Victim simulator.Info
	State  string // the agent's state directory
	PEM    string // the file with certificate and key that the other program has

	AgentToken string // from the memory of a program that asked the agent
	PEMToken   string // from that of the one with the file

	Signed    string // an application's assertion that the agent signed, seen on its way to Entra, where it never arrived
	Federated string // the same of a token that stands for an application

	After time.Duration // how much later it is on the victim's platform
}

// robbed has the thief try everything on another VM, which is another process, after this time.
func (v *victim) robbed(tb testing.TB, after time.Duration) report {
	tb.Helper()
	if err := v.platform.Clock().Advance(after - v.loot.After); err != nil {
		tb.Fatal(err)
	}
	v.loot.After = after
	dir := tb.TempDir()
	text, err := json.Marshal(v.loot)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "loot.json"), text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := exec.CommandContext(tb.Context(), program)
	p.Env = append(os.Environ(), envAsk+"="+askThief, envAt+"="+dir)
	p.Stderr = new(strings.Builder)
	out, err := p.Output()
	if err != nil {
		tb.Fatalf("%v: %s", err, p.Stderr)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// check compares what came of each attempt with what is expected of it.
func (r report) check(tb testing.TB, expired bool) {
	tb.Helper()
	if len(r.Attempts) != len(attempts()) {
		tb.Fatalf("%d attempts", len(r.Attempts))
	}
	for i, a := range attempts() {
		want, got := a.now, r.Attempts[i]
		if expired && a.later != "" {
			want = a.later
		}
		if got.Token != (want == aToken) || !strings.Contains(got.Said, want) {
			tb.Errorf("%s, expired %v: a token: %v: %s, want %s", a.how, expired, got.Token, got.Said, want)
		}
	}
	for name, answer := range map[string]string{"the agent's": r.AgentToken, "the other program's": r.PEMToken} {
		if want := map[bool]string{false: "200 OK", true: "401 Unauthorized"}[expired]; answer != want {
			tb.Errorf("with %s stolen token, expired %v, the resource answered %s, want %s", name, expired, answer, want)
		}
	}
}

// tokens counts the kinds of replay that give a new token.
func (r report) tokens() (ours, theirs int) {
	for i, a := range attempts() {
		switch {
		case !r.Attempts[i].Token:
		case a.pem:
			theirs++
		default:
			ours++
		}
	}
	return ours, theirs
}

func TestTheftOfAllFilesAndMemoryGivesNoNewToken(t *testing.T) {
	v := newVictim(t)
	for _, after := range []time.Duration{0, afterwards} {
		r := v.robbed(t, after)
		r.check(t, after > 0)
		if ours, theirs := r.tokens(); ours != 0 || theirs == 0 {
			t.Errorf("after %v, %d kinds of replay give a token of the agent's, and %d one of the PEM key's", after, ours, theirs)
		}
	}
}

func TestAPEMKeyIsAsGoodForAThiefAsItsCertificate(t *testing.T) {
	r := newVictim(t).robbed(t, certificateLife+time.Hour)
	for i, a := range attempts() {
		if got := r.Attempts[i]; a.pem && (got.Token || !strings.Contains(got.Said, "AADSTS1000502")) {
			t.Errorf("%s: a token: %v: %s", a.how, got.Token, got.Said)
		}
	}
}

// The thief is refused only because the TPM is missing: with the TPM, the same files and the same
// assertions give tokens.
func TestTheLootIsGoodWhereTheTPMIs(t *testing.T) {
	v := newVictim(t)
	insider := &thief{loot: v.loot, dir: t.TempDir(), platform: v.platform}
	if err := insider.trust(v.loot.Victim.CAFile); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context, *thief) (string, error){
		"agent":            func(ctx context.Context, t *thief) (string, error) { return t.agentWithState(ctx) },
		"VM's certificate": v.useBinding,
		"signed assertion": v.useSigned,
		"bound assertion":  v.useFederated,
	} {
		token, err := do(t.Context(), insider)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if answer := insider.show(t.Context(), token); answer != "200 OK" {
			t.Errorf("%s: the resource answered %s", name, answer)
		}
	}
}

func (v *victim) useBinding(ctx context.Context, t *thief) (string, error) {
	der, err := t.binding(t.Victim.Identities[0].ClientID)
	if err != nil {
		return "", err
	}
	return v.withKey(ctx, "binding", der, func(c *tls.Certificate) (string, error) { return t.asVM(ctx, c) })
}

func (v *victim) useSigned(ctx context.Context, t *thief) (string, error) {
	leaf, err := certificateIn(filepath.Join(t.State, "keys", "app", "1.cert.pem"))
	if err != nil {
		return "", err
	}
	return v.withKey(ctx, "app", leaf.Raw, func(c *tls.Certificate) (string, error) {
		return t.replay(ctx, c, mtlsName, certificateApp, t.Signed, "jwt-bearer")
	})
}

func (v *victim) useFederated(ctx context.Context, t *thief) (string, error) {
	der, err := t.binding(t.Victim.Identities[1].ClientID)
	if err != nil {
		return "", err
	}
	return v.withKey(ctx, "binding", der, func(c *tls.Certificate) (string, error) {
		return t.replay(ctx, c, mtlsName, federatedApp, t.Federated, "jwt-pop")
	})
}

// withKey gives do the certificate with its key in the TPM, which has no room for all keys at once.
func (v *victim) withKey(ctx context.Context, name string, der []byte, do func(*tls.Certificate) (string, error)) (string, error) {
	on, store, err := statedir.OpenKeys(ctx, v.cfg, statedir.Options{Now: v.platform.Clock().Now})
	if err != nil {
		return "", err
	}
	defer on.Close()
	entry, err := store.Current(name)
	if err != nil {
		return "", err
	}
	key, err := signer.Open(ctx, signer.Config{TPM: on, KeyFile: entry.KeyFile})
	if err != nil {
		return "", err
	}
	defer key.Close()
	return do(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// BenchmarkTheft counts in how many ways a thief who took all files and the memory, but not what is
// in the TPM, gets new tokens on another VM: right after, and when the stolen token has expired.
// The stolen token itself is good until then, the agent's as well as the other program's. This is
// what the thief tries, and the result:
//
//	with what was taken from the agent
//	the agent, with its whole state                         does not start: another storage root
//	the agent, without its note of the storage root         does not start: TPM_RC_INTEGRITY
//	the agent, a new binding key, for app-cert              TPM_RC_INTEGRITY
//	the agent, another VM's identity, for app-fic           AADSTS700211
//	the VM's identity, without a certificate                AADSTS7000218
//	the VM's or the application's certificate, another key  TLS alert decrypt_error
//	the VM's identity, another certificate                  AADSTS7000277
//	the application, another certificate                    AADSTS700027
//	its signed assertion, over other mutual TLS or none     AADSTS500181
//	its signed assertion, at login                          AADSTS700023 (assumed of Entra)
//	a bound assertion, jwt-pop or jwt-bearer, or at login   AADSTS500181, later AADSTS700024
//
//	with what was taken from a program that has its key in a PEM file
//	MSAL Go                                                 a token, while the certificate is valid
//	azidentity, ClientCertificateCredential                 a token, while the certificate is valid
//
// The assertions were read by a wiretap that held them back from Entra, so that none has been used:
// with the key that is in the TPM, they are good ([TestTheLootIsGoodWhereTheTPMIs]).
func BenchmarkTheft(b *testing.B) {
	for b.Loop() {
		v := newVictim(b)
		for _, moment := range []struct {
			unit  string
			after time.Duration
		}{{"kinds", 0}, {"expired-kinds", afterwards}} {
			r := v.robbed(b, moment.after)
			r.check(b, moment.after > 0)
			ours, theirs := r.tokens()
			b.ReportMetric(float64(ours), "ours-"+moment.unit)
			b.ReportMetric(float64(theirs), "reference-"+moment.unit)
		}
		if err := v.platform.Close(); err != nil { // one platform at a time
			b.Fatal(err)
		}
	}
}
