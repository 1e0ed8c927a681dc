package daemon_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// costs is what platform and TPM were asked for.
type costs struct {
	Metadata     int // getplatformmetadata
	Attestations int
	Certificates int // issuecredential
	Tokens       int // requests to the token endpoint
	Connections  int // on which those came: TLS handshakes
	Signatures   int // TPM2_Sign
}

// plus adds, with a sign of -1 it subtracts.
func (c costs) plus(other costs, sign int) costs {
	return costs{
		c.Metadata + sign*other.Metadata, c.Attestations + sign*other.Attestations, c.Certificates + sign*other.Certificates,
		c.Tokens + sign*other.Tokens, c.Connections + sign*other.Connections, c.Signatures + sign*other.Signatures,
	}
}

// counted is a stage whose agent reaches the TPM through a counter.
type counted struct {
	*stage
	signed atomic.Int64
}

func newCounted(t testing.TB) *counted {
	t.Helper()
	var resources []string
	for n := range 2 * manyResources {
		resources = append(resources, numbered(n))
	}
	s := &counted{stage: newStageOn(t, simulator.Config{Dir: t.TempDir(), Resources: resources})}
	s.cfg.Rules[0].Resources = []string{policy.AnyResource}
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCSign {
			s.signed.Add(1)
		}
		return forward(command)
	})
	s.cfg.TPM = proxy.Device()
	return s
}

func (s *counted) costs() costs {
	operations := func(name string) int { return len(s.platform.Journal().Operation(name)) }
	connections := map[string]bool{}
	for _, e := range s.platform.Journal().Operation("entra.mtls.token") {
		connections[e.Client] = true
	}
	return costs{
		operations("imds.getplatformmetadata"), operations("maa.attest"), operations("imds.issuecredential"),
		operations("entra.mtls.token"), len(connections), int(s.signed.Load()),
	}
}

// of returns what f costs.
func (s *counted) of(f func()) costs {
	s.t.Helper()
	before := s.costs()
	f()
	return s.costs().plus(before, -1)
}

// firstTokens starts the agent for the first time, and then again in what it left; of each start,
// it returns what 20 callers cost that want the first token at once. What the agent does to be
// ready, such as trying its key out, comes before.
func firstTokens(t testing.TB) (cold, warm costs) {
	s := newCounted(t)
	callers := func() {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.token(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	s.start()
	cold = s.of(callers)
	s.stop()
	s.start()
	return cold, s.of(callers)
}

// The most that a first token may cost.
var (
	coldLimit = costs{Metadata: 1, Attestations: 1, Certificates: 1, Tokens: 1, Connections: 1, Signatures: 2}
	warmLimit = costs{Metadata: 1, Tokens: 1, Connections: 1, Signatures: 1}
)

func TestFirstTokenCosts(t *testing.T) {
	cold, warm := firstTokens(t)
	if cold != coldLimit {
		t.Errorf("without a certificate: got %+v, want %+v", cold, coldLimit)
	}
	if warm != warmLimit {
		t.Errorf("with the certificate of the process before: got %+v, want %+v", warm, warmLimit)
	}
}

const manyResources = 100

func numbered(n int) string { return fmt.Sprintf("https://resource-%03d", n) }

// manyTokens asks for 100 resources at once, and then for 100 others one after the other. The agent
// has a certificate and no connection.
func manyTokens(t testing.TB) (atOnce, inTurn costs) {
	s := newCounted(t)
	s.start()
	s.mustToken()
	s.stop()
	s.start()
	ask := func(n int) {
		if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: numbered(n)}); err != nil {
			t.Error(err)
		}
	}
	atOnce = s.of(func() {
		var wg sync.WaitGroup
		for n := range manyResources {
			wg.Go(func() { ask(n) })
		}
		wg.Wait()
	})
	if err := s.platform.Clock().Advance(10 * time.Minute); err != nil { // what one caller may have fetched at once is bounded
		t.Fatal(err)
	}
	inTurn = s.of(func() {
		for n := range manyResources {
			ask(manyResources + n)
		}
	})
	return atOnce, inTurn
}

func TestManyResourcesAreOneConnectionAndOneSignature(t *testing.T) {
	atOnce, inTurn := manyTokens(t)
	if atOnce.Metadata < 1 || atOnce.Metadata > manyResources {
		t.Errorf("at once: IMDS was asked %d times about the identity", atOnce.Metadata)
	}
	atOnce.Metadata = 0 // requests that come while it is asked share the answer, and how many they are is chance
	if want := (costs{Tokens: manyResources, Connections: 1, Signatures: 1}); atOnce != want {
		t.Errorf("at once: got %+v, want %+v", atOnce, want)
	}
	if want := (costs{Metadata: manyResources, Tokens: manyResources}); inTurn != want {
		t.Errorf("one after the other, on the connection that is there: got %+v, want %+v", inTurn, want)
	}
}
