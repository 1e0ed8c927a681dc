package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// chaosSeed is the environment variable that repeats a schedule; without it each run makes one of
// its own. The schedule says what happens in which order; which request meets it depends on the
// machine.
const chaosSeed = "KEYAGENT_CHAOS_SEED"

const (
	chaosCallers  = 50
	chaosRequests = 20 // of each caller
	chaosEvery    = 12 // so many answers lie between two disturbances

	// chaosHalfLife is half of a binding certificate's life of a week, and a tenth more.
	chaosHalfLife = 93 * time.Hour
)

// managementURI takes no tokens of type mtls_pop.
const managementURI = "https://management.azure.com"

func chaosResources() []string {
	return []string{resource, managementURI, "https://graph.microsoft.com", "https://storage.azure.com"}
}

// chaos is a stage with everything that can be disturbed.
type chaos struct {
	*stage
	proxy  *tpmtest.Proxy
	random *rand.Rand // of the schedule
	jumps  int        // of half a certificate's life
	stalls sync.WaitGroup
	turned *sync.Cond // the clock was put forward

	mu     sync.Mutex
	tokens []handedOut
	failed map[wire.Code]int
}

// handedOut is a token and what it was asked for.
type handedOut struct {
	asked question
	at    time.Time // before it was asked for, by the platform's clock
	token client.Token
}

// A question is a request as failures tell it.
type question client.TokenRequest

func (q question) String() string { return q.Type + " of " + q.Identity + " for " + q.Resource }

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	c := &chaos{stage: newStage(t), random: rand.New(rand.NewPCG(seed, 0)), failed: map[wire.Code]int{}, turned: sync.NewCond(&sync.Mutex{})}
	c.proxy = tpmtest.NewProxy(t, c.cfg.TPM)
	c.cfg.TPM = c.proxy.Device()
	c.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c.wait = c.waitForTheClock
	c.identities()
	c.certifyApplication()
	c.start()
	return c
}

// identities makes the one that prefers to be bound of the user-assigned one, and lets the test's
// user ask for all.
func (c *chaos) identities() {
	for i := range c.cfg.Identities {
		if id := &c.cfg.Identities[i]; id.Name == "vm-user" {
			id.ManagedIdentity.Bound = config.BoundPrefer
		}
	}
	c.cfg.Rules[0].Resources = chaosResources()
}

// certifyApplication makes the key of app-cert and gets it a certificate that the application
// trusts.
func (c *chaos) certifyApplication() {
	c.t.Helper()
	k := c.keyring(c.platform.Clock().Now)
	if _, err := k.Create(c.t.Context(), "app", keyring.KeyRequest{}); err != nil {
		c.t.Fatal(err)
	}
	c.certify(k)
	if err := k.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// waitForTheClock ends when the clock is put forward, so that renewals are looked at again.
func (c *chaos) waitForTheClock(ctx context.Context, _ time.Duration) error {
	stop := context.AfterFunc(ctx, func() {
		c.turned.L.Lock()
		defer c.turned.L.Unlock()
		c.turned.Broadcast()
	})
	defer stop()
	c.turned.L.Lock()
	defer c.turned.L.Unlock()
	if ctx.Err() == nil {
		c.turned.Wait()
	}
	return ctx.Err()
}

func (c *chaos) advance(d time.Duration) {
	c.turned.L.Lock()
	defer c.turned.L.Unlock()
	if err := c.platform.Clock().Advance(d); err != nil {
		c.t.Error(err)
	}
	c.turned.Broadcast()
}

// A disturbance is what goes wrong at one moment.
type disturbance struct {
	name string
	do   func()
}

// schedule draws as many disturbances as there is time for.
func (c *chaos) schedule() []disturbance {
	var all []disturbance
	for range chaosCallers*chaosRequests/chaosEvery + 1 {
		all = append(all, c.draw())
	}
	return all
}

// draw draws one disturbance.
func (c *chaos) draw() disturbance {
	switch n := c.random.IntN(20); {
	case n < 8:
		f := c.drawFault()
		return disturbance{fmt.Sprintf("%s %s %d %v ×%d", f.Operation, f.Kind, f.Status, f.Headers, f.Count), func() { c.add(f) }}
	case n < 11:
		d := time.Duration(1+c.random.IntN(120)) * time.Second
		return disturbance{fmt.Sprintf("%v pass", d), func() { c.advance(d) }}
	case n == 11:
		return disturbance{"half a certificate's life passes", func() { c.jumps++; c.advance(chaosHalfLife) }}
	case n < 15:
		name := []string{"vm", "vm-user"}[c.random.IntN(2)]
		return disturbance{"Entra revokes the certificate of " + name, func() { c.revoke(name) }}
	case n < 17:
		return disturbance{"Entra distrusts the attestation", c.platform.DistrustAttestation}
	case n == 17:
		d := time.Duration(100+c.random.IntN(900)) * time.Millisecond
		return disturbance{fmt.Sprintf("the TPM stalls for %v", d), func() { c.stall(d) }}
	case n == 18:
		return disturbance{"the TPM hangs up", c.proxy.Disconnect}
	}
	return disturbance{"the TPM is reset", c.resetTPM}
}

// drawFault draws what a service does wrong for the next few requests.
func (c *chaos) drawFault() fault.Fault {
	operations := []string{
		"imds.getplatformmetadata", "imds.issuecredential", "imds.token", "imds.thim", "maa.attest",
		"entra.mtls.token", "entra.mtls.token", "entra.mtls.token", // the endpoint that gets most requests
	}
	f := fault.Fault{Operation: operations[c.random.IntN(len(operations))], Kind: fault.Status, Count: 1 + c.random.IntN(4)}
	switch c.random.IntN(7) {
	case 0:
		f.Kind = fault.Reset
	case 1:
		f.Kind, f.Delay = fault.Delay, fault.Duration(10+c.random.IntN(200))*fault.Duration(time.Millisecond)
	case 2:
		f.Kind, f.Body = fault.Body, "<html>not a token</html>"
	case 3:
		f.Status, f.Headers = 503, map[string]string{"Retry-After": strconv.Itoa(1 + c.random.IntN(30))}
	case 4:
		f.Status = 429
	case 5:
		f.Status, f.Headers = 429, map[string]string{"Retry-After": strconv.Itoa(1 + c.random.IntN(30))}
	default:
		f.Status = []int{500, 502, 503, 410}[c.random.IntN(4)]
	}
	return f
}

func (c *chaos) add(f fault.Fault) {
	if err := c.platform.Faults().Add(f); err != nil {
		c.t.Error(err)
	}
}

// revoke revokes the certificate that was issued last for an identity.
func (c *chaos) revoke(name string) {
	if all := c.issued(c.clientID(name)); len(all) > 0 {
		c.platform.Revoke(all[len(all)-1].Detail["certificate_thumbprint"].(string))
	}
}

// issued are the issuances for a client id, or, for "", all.
func (c *chaos) issued(clientID string) []journal.Entry {
	return slices.DeleteFunc(c.platform.Journal().Operation("imds.issuecredential"), func(e journal.Entry) bool {
		return e.Outcome != journal.OK || clientID != "" && e.Detail["client_id"] != clientID
	})
}

// stall keeps the TPM from answering for a while.
func (c *chaos) stall(d time.Duration) {
	release := make(chan struct{})
	c.proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		<-release
		return forward(command)
	})
	c.stalls.Add(1)
	time.AfterFunc(d, func() {
		defer c.stalls.Done()
		c.proxy.Handle(nil)
		close(release)
	})
}

func (c *chaos) resetTPM() {
	if err := c.platform.ResetTPM(c.t.Context()); err != nil {
		c.t.Error(err)
	}
}

// TestChaos asks for a thousand tokens while everything goes wrong that the platform can do, and
// wants every answer to be the right token or an honest error, and afterwards an agent that works
// and has left nothing behind.
func TestChaos(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv(chaosSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	c := newChaos(t, seed)
	plan := c.schedule()
	defer func() {
		if t.Failed() {
			t.Logf("repeat with %s=%d:", chaosSeed, seed)
			for i, d := range plan {
				t.Logf("after %d answers: %s", (i+1)*chaosEvery, d.name)
			}
		}
	}()
	c.storm(seed, plan)
	c.calm()
	for _, h := range c.tokens {
		c.checkToken(h)
	}
	c.checkIssuances()
	c.checkUnbound()
	c.checkLogs()
	if e := c.platform.Journal().Entries(); e[0].Seq != 1 {
		t.Error("the journal is not complete")
	}
	t.Logf("%d tokens, refusals %v, %d issuances, %d jumps", len(c.tokens), c.failed, len(c.issued("")), c.jumps)
	c.checkTPM()
}

// storm has all callers ask, and one disturbance happen after so many answers each.
func (c *chaos) storm(seed uint64, plan []disturbance) {
	answers := make(chan struct{})
	var callers sync.WaitGroup
	for n := range uint64(chaosCallers) {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(seed, n+1))
			for range chaosRequests {
				c.ask(c.drawRequest(random))
				answers <- struct{}{}
			}
		})
	}
	go func() {
		defer close(answers)
		callers.Wait()
	}()
	count := 0
	for range answers {
		if count++; count%chaosEvery == 0 {
			plan[count/chaosEvery-1].do()
		}
	}
}

func (c *chaos) drawRequest(random *rand.Rand) client.TokenRequest {
	resources := chaosResources()
	return client.TokenRequest{
		Identity: c.cfg.Identities[random.IntN(len(c.cfg.Identities))].Name,
		Resource: resources[random.IntN(len(resources))],
		Type:     []string{wire.TypeBearer, wire.TypePoP}[random.IntN(2)],
	}
}

// ask asks for one token, with more time than the agent may take.
func (c *chaos) ask(req client.TokenRequest) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	at := c.platform.Clock().Now()
	token, err := c.client.Token(ctx, req)
	if err != nil {
		c.checkRefusal(req, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens = append(c.tokens, handedOut{question(req), at, token})
}

// checkRefusal wants an answer of the agent's that says whether to come back.
func (c *chaos) checkRefusal(req client.TokenRequest, err error) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		c.t.Errorf("%v: got %v, want an answer", question(req), err)
		return
	}
	comeBack := map[wire.Code]bool{wire.CodeUnavailable: true, wire.CodeThrottled: true, wire.CodeCredentialRefused: false}
	later, known := comeBack[e.Problem.Code]
	if !known || e.Status != e.Problem.Code.Status() || later != (e.RetryAfter > 0) || e.Problem.Identity != req.Identity {
		c.t.Errorf("%v: got status %d, %+v", question(req), e.Status, e.Problem)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[e.Problem.Code]++
}

// calm ends all disturbances, and wants every token that can be had.
func (c *chaos) calm() {
	c.stalls.Wait()
	c.platform.Faults().Clear()
	c.jumps++
	c.advance(chaosHalfLife) // beyond all pauses, and the life of all tokens: an unbound one is kept that long
	for _, id := range c.cfg.Identities {
		for _, uri := range chaosResources() {
			for _, kind := range []string{wire.TypeBearer, wire.TypePoP} {
				req := client.TokenRequest{Identity: id.Name, Resource: uri, Type: kind}
				at := c.platform.Clock().Now()
				token, err := c.client.Token(c.t.Context(), req)
				switch refused, _ := errors.AsType[*client.Error](err); {
				case kind == wire.TypePoP && uri == managementURI:
					if refused == nil || refused.Problem.Code != wire.CodeCredentialRefused {
						c.t.Errorf("%v: got %v, want what the resource does not take refused", question(req), err)
					}
				case err != nil || !token.Bound || token.Fallback:
					c.t.Errorf("after the storm, %v: got bound %v, fallback %v, %v", question(req), token.Bound, token.Fallback, err)
				default:
					c.tokens = append(c.tokens, handedOut{question(req), at, token})
				}
			}
		}
	}
}

// clientID is the client id of an identity at Entra.
func (c *chaos) clientID(name string) string {
	info := c.platform.Info()
	for _, id := range info.Identities {
		if id.Name == name {
			return id.ClientID
		}
	}
	for _, app := range info.Applications {
		if app.Name == name {
			return app.ClientID
		}
	}
	c.t.Fatalf("there is no identity %q", name)
	return ""
}
