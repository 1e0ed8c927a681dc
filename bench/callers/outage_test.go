package callers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/journal"
)

const (
	tokenLife    = 24 * time.Hour
	outageLength = 10 * time.Minute
	askedEvery   = 10 * time.Second
	asked        = int(outageLength / askedEvery)
)

// outages says how old a token is when they begin.
var outages = []struct {
	name string
	age  time.Duration
}{
	{"half-life", tokenLife / 2},
	{"last-minutes", tokenLife - outageLength},
}

// withAgent returns how many requests to the agent are answered throughout an outage. Time is the
// platform's.
func withAgent(tb testing.TB, age time.Duration) (answered int) {
	tb.Helper()
	s := newStage(tb)
	s.platform.Faults().Clear()
	get := func() error {
		ctx, cancel := context.WithTimeout(tb.Context(), askedEvery)
		defer cancel()
		_, err := s.client.Token(ctx, client.TokenRequest{Identity: "vm", Resource: resource(0)})
		return err
	}
	if err := get(); err != nil {
		tb.Fatal(err)
	}
	if age > tokenLife/2 { // in the meantime, a program has used the token
		s.advance(tb, tokenLife/2)
		age -= tokenLife / 2
		s.until(tb, journal.OK, s.requests(journal.OK)+1, get)
	}
	s.advance(tb, age)
	if err := s.platform.Faults().Add(fault.Fault{Leg: "entra.mtls.token", Kind: fault.Reset}); err != nil {
		tb.Fatal(err)
	}
	for range asked {
		if get() == nil {
			answered++
		}
		s.advance(tb, askedEvery)
	}
	if age == tokenLife/2 { // else nobody tried to get the next token in the outage, and nothing is shown
		s.until(tb, journal.Faulted, 1, func() error { return nil })
	}
	return answered
}

// until repeats do until the token endpoint has answered n requests so.
func (s *stage) until(tb testing.TB, outcome journal.Outcome, n int, do func() error) {
	tb.Helper()
	for s.requests(outcome) < n {
		if err := errors.Join(do(), tb.Context().Err()); err != nil {
			tb.Fatal(err)
		}
	}
}

func (s *stage) requests(outcome journal.Outcome) (n int) {
	for _, e := range s.platform.Journal().Leg("entra.mtls.token") {
		if e.Outcome == outcome {
			n++
		}
	}
	return n
}

func (s *stage) advance(tb testing.TB, d time.Duration) {
	tb.Helper()
	if err := s.platform.Clock().Advance(d); err != nil {
		tb.Fatal(err)
	}
}

func TestNobodyNoticesAnOutageOfTenMinutes(t *testing.T) {
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			if n := withAgent(t, o.age); n != asked {
				t.Errorf("%d of %d requests were answered", n, asked)
			}
		})
	}
}

// imdsInBubble answers as IMDS does, until it is down.
type imdsInBubble struct{ down bool }

func (i *imdsInBubble) Do(req *http.Request) (*http.Response, error) {
	status, body := http.StatusOK, fmt.Sprintf(
		`{"access_token":"t","client_id":"c","expires_in":"%d","expires_on":"%d","not_before":"%d","resource":"r","token_type":"Bearer"}`,
		int(tokenLife.Seconds()), time.Now().Add(tokenLife).Unix(), time.Now().Unix())
	if i.down {
		status, body = http.StatusServiceUnavailable, `{"error":"temporarily_unavailable","error_description":"down"}`
	}
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// TestAzidentityInAnOutage asks azidentity throughout the same outages. It is the reference of
// BenchmarkOutage, which reads what it prints.
func TestAzidentityInAnOutage(t *testing.T) {
	for _, o := range outages {
		synctest.Test(t, func(t *testing.T) { fmt.Printf("%s: %d answered\n", o.name, withAzidentity(t, o.age)) })
	}
}

// withAzidentity returns how many requests to azidentity are answered throughout an outage. Time is
// the bubble's.
func withAzidentity(t *testing.T, age time.Duration) (answered int) {
	t.Helper()
	host := new(imdsInBubble)
	credential, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ClientOptions: azcore.ClientOptions{Transport: host},
	})
	if err != nil {
		t.Fatal(err)
	}
	scope := fmt.Sprintf("https://%d/.default", age) // all credentials of a process share a cache
	get := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), askedEvery)
		defer cancel()
		_, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	if age > tokenLife/2 { // in the meantime, a program has used the token
		time.Sleep(tokenLife / 2)
		age -= tokenLife / 2
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(age)
	host.down = true
	start := time.Now()
	for n := range asked {
		time.Sleep(time.Until(start.Add(time.Duration(n) * askedEvery)))
		if get() == nil {
			answered++
		}
	}
	return answered
}

// BenchmarkOutage compares how many requests the agent answers in an outage of ten minutes, one
// every ten seconds, with all of them, and with what azidentity answers.
func BenchmarkOutage(b *testing.B) {
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	said, err := exec.CommandContext(b.Context(), program, "-test.run", "^TestAzidentityInAnOutage$").CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, said)
	}
	for _, o := range outages {
		b.Run(o.name, func(b *testing.B) {
			var theirs int
			for line := range strings.Lines(string(said)) {
				_, _ = fmt.Sscanf(line, o.name+": %d answered", &theirs)
			}
			ours := asked
			for b.Loop() {
				ours = min(ours, withAgent(b, o.age))
			}
			b.ReportMetric(float64(ours), "ours-requests")
			b.ReportMetric(float64(theirs), "reference-requests")
			b.ReportMetric(float64(ours), "ours-all-requests")
			b.ReportMetric(float64(asked), "reference-all-requests")
		})
	}
}
