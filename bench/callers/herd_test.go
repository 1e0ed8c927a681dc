package callers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyagent/keyagent/bench/series"
	"github.com/keyagent/keyagent/client"
)

const (
	herdSize = 60
	patience = 3 * time.Minute

	envAsk      = "CALLERS_ASK" // agent or azidentity
	envAt       = "CALLERS_AT"  // the agent's socket, or host and port of IMDS
	envResource = "CALLERS_RESOURCE"

	askAgent      = "agent"
	askAzidentity = "azidentity"            // at IMDS
	askUnmodified = "azidentity-with-agent" // at the agent, as keyagent exec has it
)

// nobody is who the processes are that ask over loopback, where root may be the root of any
// container and is refused.
const nobody = 65534

// oneOfTheHerd is one process: it says that it is there, waits for the end of its input, and gets
// one token.
func oneOfTheHerd(whom string) error {
	get, known := map[string]func(ctx context.Context, at, resource string) error{
		askAgent: fromAgent, askAzidentity: fromIMDS, askUnmodified: fromAgentUnmodified,
	}[whom]
	if !known {
		return fmt.Errorf("nobody asks as %q", whom)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fmt.Print("!")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return get(ctx, os.Getenv(envAt), os.Getenv(envResource))
}

func fromAgent(ctx context.Context, socket, resource string) error {
	c := client.New(client.Config{Socket: socket})
	defer c.Close()
	_, err := c.Token(ctx, client.TokenRequest{Identity: "vm", Resource: resource})
	return err
}

// fromIMDS asks IMDS by its usual address, which leads to the simulated one.
func fromIMDS(ctx context.Context, address, resource string) error {
	return byAzidentity(ctx, resource, &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
}

// fromAgentUnmodified does what keyagent exec does for a program before it starts it, and then what
// the program does.
func fromAgentUnmodified(ctx context.Context, socket, resource string) error {
	c := client.New(client.Config{Socket: socket})
	defer c.Close()
	endpoint, err := c.Endpoint(ctx, client.EndpointRequest{Identity: "vm"})
	if err != nil {
		return err
	}
	err = errors.Join(os.Setenv("IDENTITY_ENDPOINT", endpoint.AppService), os.Setenv("IDENTITY_HEADER", endpoint.Secret.Reveal()))
	if err != nil {
		return err
	}
	return byAzidentity(ctx, resource, &http.Transport{})
}

func byAzidentity(ctx context.Context, resource string, transport *http.Transport) error {
	credential, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: transport}},
	})
	if err != nil {
		return err
	}
	_, err = credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}})
	return err
}

// run is what became of a herd.
type run struct {
	served    int             // processes that got their token
	took      time.Duration   // until the last process was done
	at        []time.Duration // when each had its token, of the last herd, in this order
	requests  int             // that the platform saw
	imds      int             // of those, to IMDS
	throttled int             // of those, answered with 429
}

// herd starts the processes, lets them go all at once and waits for the last.
func (s *stage) herd(tb testing.TB, whom string) run {
	tb.Helper()
	at := s.client.Socket()
	if whom == askAzidentity {
		at = strings.TrimPrefix(s.platform.Info().IMDS, "http://")
	}
	waiting, start, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	defer waiting.Close()
	as := os.Geteuid()
	if as == 0 && whom == askUnmodified {
		as = nobody
	}
	var processes []*exec.Cmd
	env := []string{envAsk + "=" + whom, envAt + "=" + at, envResource + "=" + resource(s.herds)}
	for range herdSize {
		processes = append(processes, s.process(tb, as, waiting, env...))
	}
	s.herds++
	var seen uint64
	if entries := s.platform.Journal().Entries(); len(entries) > 0 {
		seen = entries[len(entries)-1].Seq
	}
	begin := time.Now()
	if err := start.Close(); err != nil {
		tb.Fatal(err)
	}
	r := waitFor(tb, whom, processes, begin)
	for _, e := range s.platform.Journal().Entries() {
		if e.Seq <= seen {
			continue
		}
		r.requests++
		if strings.HasPrefix(e.Operation, "imds.") {
			r.imds++
		}
		if e.Status == http.StatusTooManyRequests {
			r.throttled++
		}
	}
	return r
}

// waitFor waits for all processes of a herd that was let go.
func waitFor(tb testing.TB, whom string, processes []*exec.Cmd, begin time.Time) run {
	tb.Helper()
	var r run
	var mu sync.Mutex
	var waiting sync.WaitGroup
	for _, p := range processes {
		waiting.Go(func() {
			err := p.Wait()
			took := time.Since(begin)
			mu.Lock()
			defer mu.Unlock()
			if _, failed := errors.AsType[*exec.ExitError](err); failed {
				tb.Logf("%s: %s", whom, p.Stderr)
			} else if err != nil {
				tb.Error(err)
			} else {
				r.served++
				r.at = append(r.at, took)
			}
		})
	}
	waiting.Wait()
	r.took = time.Since(begin)
	return r
}

// process starts this program once more and returns when it waits on its input.
func (s *stage) process(tb testing.TB, as int, input *os.File, env ...string) *exec.Cmd {
	tb.Helper()
	// By this name another user finds the program, too, whose folder is root's alone.
	p := exec.CommandContext(tb.Context(), "/proc/self/exe")
	if as == nobody {
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		p.Dir = "/"
	}
	p.Env = append(os.Environ(), env...)
	p.Stdin, p.Stderr = input, new(strings.Builder)
	out, err := p.StdoutPipe()
	if err == nil {
		err = p.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, 1))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestAHerdIsOneRequestToIMDSAndOneToEntra(t *testing.T) {
	s := newStage(t)
	for _, whom := range []string{askAgent, askUnmodified} {
		r := s.herd(t, whom)
		if r.served != herdSize || r.requests != 2 || r.imds != 1 || r.throttled != 0 {
			t.Errorf("%s: got %+v, want %d processes served by one request to IMDS and one to Entra", whom, r, herdSize)
		}
	}
}

// BenchmarkHerd compares 60 processes that ask the agent with 60 that ask IMDS by azidentity. The
// agent has its certificate, and nobody has the token.
func BenchmarkHerd(b *testing.B) {
	s := newStage(b)
	var ours, unmodified, theirs run
	rounds := []func(){
		func() {
			ours = ours.plus(s.herd(b, askAgent))
			unmodified = unmodified.plus(s.herd(b, askUnmodified))
		},
		func() { theirs = theirs.plus(s.herd(b, askAzidentity)) },
	}
	n := 0
	for ; b.Loop(); n++ {
		rounds[n%2]()
		rounds[1-n%2]()
	}
	for name, r := range map[string]run{"ours-": ours, "reference-": theirs} {
		b.ReportMetric(float64(r.took.Milliseconds())/float64(n), name+"ms")
		b.ReportMetric(float64(r.requests)/float64(n), name+"requests")
		b.ReportMetric(100*float64(r.requests-r.throttled)/float64(r.requests), name+"unthrottled-percent")
		b.ReportMetric(float64(r.served)/float64(n), name+"served-processes")
	}
	for name, r := range map[string]run{"ours-unmodified-": unmodified, "reference-unmodified-": theirs} {
		b.ReportMetric(float64(r.took.Milliseconds())/float64(n), name+"ms")
		b.ReportMetric(float64(r.served)/float64(n), name+"served-processes")
	}
	b.ReportMetric(float64(ours.requests-ours.imds)/float64(n), "ours-entra-requests")
	b.ReportMetric(1, "reference-entra-requests")
	b.ReportMetric(float64(ours.imds)/float64(n), "ours-imds-requests")
	b.ReportMetric(1, "reference-imds-requests")
	b.ReportMetric(float64(ours.served)/float64(n), "ours-all-processes")
	b.ReportMetric(herdSize, "reference-all-processes")
	logServed(b, "the agent", ours)
	logServed(b, "azidentity asking IMDS", theirs)
}

func (r run) plus(other run) run {
	return run{r.served + other.served, r.took + other.took, other.at, r.requests + other.requests, r.imds + other.imds, r.throttled + other.throttled}
}

// logServed logs how many processes had their token after so many milliseconds.
func logServed(b *testing.B, name string, r run) {
	b.Helper()
	s := series.Series{Plot: "herd", Name: name}
	s.Add(0, 0)
	for n, at := range r.at {
		s.Add(float64(at.Milliseconds()), float64(n+1))
	}
	series.Log(b, s)
}
