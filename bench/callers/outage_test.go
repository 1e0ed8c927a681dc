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

	"github.com/keyagent/keyagent/bench/series"
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

// answers says of each request in an outage whether it was answered.
type answers []bool

func (a answers) count() (n int) {
	for _, answered := range a {
		if answered {
			n++
		}
	}
	return n
}

// String has a digit for each request: 1 if it was answered, else 0.
func (a answers) String() string {
	var s strings.Builder
	for _, answered := range a {
		s.WriteString(map[bool]string{false: "0", true: "1"}[answered])
	}
	return s.String()
}

func parseAnswers(s string) (a answers) {
	for _, digit := range s {
		a = append(a, digit == '1')
	}
	return a
}

// series is how many were answered until then, by the minute of the outage.
func (a answers) series(outage, name string) series.Series {
	s := series.Series{Plot: "outage, " + outage, Name: name}
	s.Add(0, 0)
	for n := range a {
		s.Add((time.Duration(n+1) * askedEvery).Minutes(), float64(a[:n+1].count()))
	}
	return s
}

// withAgent asks the agent throughout an outage. Time is the platform's.
func withAgent(tb testing.TB, age time.Duration) (got answers) {
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
	if err := s.platform.Faults().Add(fault.Fault{Operation: "entra.mtls.token", Kind: fault.Reset}); err != nil {
		tb.Fatal(err)
	}
	for range asked {
		got = append(got, get() == nil)
		s.advance(tb, askedEvery)
	}
	if age == tokenLife/2 { // else nobody tried to get the next token in the outage, and nothing is shown
		s.until(tb, journal.Faulted, 1, func() error { return nil })
	}
	return got
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
	for _, e := range s.platform.Journal().Operation("entra.mtls.token") {
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
			if n := withAgent(t, o.age).count(); n != asked {
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
		synctest.Test(t, func(t *testing.T) { fmt.Printf("%s: %v\n", o.name, withAzidentity(t, o.age)) })
	}
}

// withAzidentity asks azidentity throughout an outage. Time is the bubble's.
func withAzidentity(t *testing.T, age time.Duration) (got answers) {
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
		got = append(got, get() == nil)
	}
	return got
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
			var theirs answers
			for line := range strings.Lines(string(said)) {
				if text, ok := strings.CutPrefix(line, o.name+": "); ok {
					theirs = parseAnswers(strings.TrimSpace(text))
				}
			}
			if len(theirs) != asked {
				b.Fatalf("azidentity was asked %d times, not %d:\n%s", len(theirs), asked, said)
			}
			ours, fewest := answers(nil), asked
			for b.Loop() {
				ours = withAgent(b, o.age)
				fewest = min(fewest, ours.count())
			}
			series.Log(b, ours.series(o.name, "the agent"))
			series.Log(b, theirs.series(o.name, "azidentity"))
			b.ReportMetric(float64(fewest), "ours-requests")
			b.ReportMetric(float64(theirs.count()), "reference-requests")
			b.ReportMetric(float64(fewest), "ours-all-requests")
			b.ReportMetric(float64(asked), "reference-all-requests")
		})
	}
}
