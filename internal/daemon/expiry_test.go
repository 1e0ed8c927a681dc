package daemon_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

const day = 24 * time.Hour

// expiring is an agent whose application app-cert has a certificate, and which looks at it when it
// is told to.
type expiring struct {
	*stage
	looked, again chan struct{}
}

// newExpiring makes the certificate with a life of so many days, and waits for the agent's first
// look at it.
func newExpiring(t *testing.T, days int) *expiring {
	t.Helper()
	return newExpiringOn(t, newStage(t), days)
}

// newExpiringOn is newExpiring on a stage that a test has prepared.
func newExpiringOn(t *testing.T, s *stage, days int) *expiring {
	t.Helper()
	e := &expiring{s, make(chan struct{}), make(chan struct{})}
	e.wait = func(ctx context.Context, d time.Duration) error {
		if d != daemon.ExpiryTick { // others wait for other things
			<-ctx.Done()
			return ctx.Err()
		}
		for _, step := range []chan struct{}{e.looked, e.again} {
			select {
			case step <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	if _, err := e.keyring(e.platform.Clock().Now).Create(t.Context(), "app", keyring.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	e.certify(days)
	e.start()
	<-e.looked
	return e
}

// certify gives the key a certificate with a life of so many days from now, in the place of the one
// that it has.
func (e *expiring) certify(days int) {
	e.t.Helper()
	options := keyring.SelfSignOptions{NameRequest: agenttest.Subject("app"), Days: days, Replace: true}
	if _, err := e.keyring(e.platform.Clock().Now).SelfSign(e.t.Context(), "app", options); err != nil {
		e.t.Fatal(err)
	}
}

// after puts the clock forward, has the agent look, and returns what it then logged about
// certificates.
func (e *expiring) after(d time.Duration) string {
	e.t.Helper()
	before := len(e.log.String())
	if err := e.platform.Clock().Advance(d); err != nil {
		e.t.Fatal(err)
	}
	<-e.again
	<-e.looked
	var said []string
	for line := range strings.Lines(e.log.String()[before:]) {
		if strings.Contains(line, "the certificate of an application") {
			said = append(said, line)
		}
	}
	return strings.Join(said, "")
}

func (e *expiring) status() (all wire.Status, credential wire.CredentialStatus) {
	e.t.Helper()
	all, err := e.client.Status(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, id := range all.Identities {
		if id.Name == "app-cert" {
			return all, id.Credentials[0]
		}
	}
	e.t.Fatal("the status lacks app-cert")
	return all, credential
}

func TestAnApplicationsCertificateIsWarnedOfMoreUrgentlyEachTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		days  int // life
		steps []expiryStep
	}{
		{"a year", 365, []expiryStep{
			{334 * day, ""},
			{day + time.Hour, "level=WARN urgency=1 days_left=29"},
			{time.Hour, ""}, // it was said
			{16 * day, "level=WARN urgency=2 days_left=13"},
			{7 * day, "level=WARN urgency=3 days_left=6"},
			{4 * day, "level=WARN urgency=4 days_left=2"},
			{2 * day, "level=WARN urgency=5 days_left=0"},
			{day, "level=ERROR urgency=6 days_left=-1"},
			{time.Hour, ""},
			{day, "level=ERROR urgency=6 days_left=-2"}, // every day
		}},
		{"twelve days: from a third of its life on", 12, []expiryStep{
			{7 * day, ""},
			{day + time.Hour, "level=WARN urgency=3 days_left=3"},
			{day, "level=WARN urgency=4 days_left=2"},
		}},
		{"a day", 1, []expiryStep{
			{15 * time.Hour, ""},
			{2 * time.Hour, "level=WARN urgency=5 days_left=0"},
			{8 * time.Hour, "level=ERROR urgency=6 days_left=-1"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newExpiring(t, tt.days)
			for _, step := range tt.steps {
				said := e.after(step.later)
				if (said == "") != (step.says == "") {
					t.Errorf("%v later the log has %q, want %q", step.later, said, step.says)
				}
				for part := range strings.FieldsSeq(step.says) {
					if !strings.Contains(said, part) {
						t.Errorf("%v later the log has %q, want %q", step.later, said, part)
					}
				}
			}
		})
	}
}

type expiryStep struct {
	later time.Duration
	says  string // parts of the one record, or nothing
}

func TestAReplacedCertificateIsNotWarnedOf(t *testing.T) {
	e := newExpiring(t, 30)
	if said := e.after(25 * day); !strings.Contains(said, "urgency=3") {
		t.Fatalf("the log has %q", said)
	}
	e.certify(90)
	if said := e.after(2 * day); said != "" {
		t.Errorf("the log has %q about the new certificate", said)
	}
	if said := e.after(75 * day); !strings.Contains(said, "urgency=2") {
		t.Errorf("the log has %q about the new certificate near its end", said)
	}
}

func TestStatusCountsTheDaysOfAnApplicationsCertificate(t *testing.T) {
	e := newExpiring(t, 90)
	for _, tt := range []struct {
		later time.Duration
		left  int
		soon  bool
		ready bool
	}{
		{time.Hour, 89, false, true},
		{60 * day, 29, true, true},
		{29 * day, 0, true, true},
		{day, -1, true, false},
		{3 * day, -4, true, false},
	} {
		e.after(tt.later)
		all, credential := e.status()
		c := credential.Certificate
		if c == nil || c.DaysLeft != tt.left || c.ExpiresSoon != tt.soon || len(c.ThumbprintSHA1) != 40 {
			t.Errorf("%v later the status has certificate %+v, want %d days left", tt.later, c, tt.left)
		}
		if all.Ready != tt.ready || tt.ready == strings.Contains(strings.Join(all.NotReady, "\n"), "expired") {
			t.Errorf("%v later the status has ready %v, %q", tt.later, all.Ready, all.NotReady)
		}
	}
}

// TestReadinessIsAboutWhatIsKnown has the second identity's credentials lack things in turn.
func TestReadinessIsAboutWhatIsKnown(t *testing.T) {
	token := t.TempDir() + "/token"
	for _, tt := range []struct {
		name        string
		credentials []config.Credential
		reason      string // "" is ready
	}{
		{"nothing is known of another service", []config.Credential{{Name: "fic", Source: config.SourceManagedIdentity, Bound: config.BoundNever, ManagedIdentity: &config.ManagedIdentitySelector{}}}, ""},
		{"no key", []config.Credential{{Name: "cert", Source: config.SourceCertificate, Key: "none", Bound: config.BoundNever}}, `key "none": there is no such key`},
		{"no assertion file", []config.Credential{{Name: "file", Source: config.SourceAssertionFile, Path: token, Bound: config.BoundNever}}, token},
		{"neither", []config.Credential{
			{Name: "cert", Source: config.SourceCertificate, Key: "none", Bound: config.BoundNever},
			{Name: "file", Source: config.SourceAssertionFile, Path: token, Bound: config.BoundNever},
		}, token},
		{"one of two", []config.Credential{
			{Name: "cert", Source: config.SourceCertificate, Key: "none", Bound: config.BoundNever},
			{Name: "fic", Source: config.SourceManagedIdentity, Bound: config.BoundNever, ManagedIdentity: &config.ManagedIdentitySelector{}},
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			for i := range s.cfg.Identities {
				if id := &s.cfg.Identities[i]; id.Name == "app-cert" {
					id.Application.Credentials = tt.credentials
				}
			}
			s.start()
			status, err := s.client.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			reasons := strings.Join(status.NotReady, "\n")
			if status.Ready != (tt.reason == "") || !strings.Contains(reasons, tt.reason) {
				t.Errorf("ready %v, %q; want the reason %q", status.Ready, reasons, tt.reason)
			}
		})
	}
}

func TestAnAgentWithoutItsTPMIsNotReady(t *testing.T) {
	const failureMode = 0x101 // TPM_RC_FAILURE
	s := newStage(t)
	s.machine().WithoutApplications()
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	var wrong atomic.Value // func() ([]byte, error)
	wrong.Store((func() ([]byte, error))(nil))
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if answer := wrong.Load().(func() ([]byte, error)); answer != nil {
			return answer()
		}
		return forward(command)
	})
	s.cfg.TPM = proxy.Device()
	s.start()
	for _, tt := range []struct {
		name   string
		answer func() ([]byte, error)
	}{
		{"it hangs up", func() ([]byte, error) { return nil, tpmtest.ErrHangUp }},
		{"it is in failure mode", func() ([]byte, error) { return tpmtest.Response(failureMode), nil }},
		{"it answers with half a response", func() ([]byte, error) { return tpmtest.Response(0)[:6], tpmtest.ErrHangUp }},
	} {
		wrong.Store(tt.answer)
		status, err := s.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if status.Ready || status.TPM.LastError == "" || !strings.Contains(strings.Join(status.NotReady, "\n"), "the TPM does not answer") {
			t.Errorf("%s: ready %v, %q, TPM %+v", tt.name, status.Ready, status.NotReady, status.TPM)
		}
		wrong.Store((func() ([]byte, error))(nil))
		if status, err = s.client.Status(t.Context()); err != nil || !status.Ready || status.TPM.LastError != "" {
			t.Errorf("%s, and afterwards: ready %v, %q, %v", tt.name, status.Ready, status.NotReady, err)
		}
	}
}
