package agentapi_test

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// otherSockets is how many sockets there are on loopback beside those that are measured.
const otherSockets = 10000

// BenchmarkTokenOverLoopback is [BenchmarkTokenOverSocket] for the App Service protocol on
// loopback, with all that a request takes there: the owner of the socket at the other end (once a
// connection), the program's secret and that its process still runs. "each-new" makes a connection
// for each request, so that each has its owner looked up. Many other sockets are open meanwhile.
func BenchmarkTokenOverLoopback(b *testing.B) {
	for _, kind := range []struct {
		name        string
		connections int
		keep        bool
	}{{"connections=1", 1, true}, {"connections=16", 16, true}, {"each-new", 1, false}} {
		b.Run(kind.name, func(b *testing.B) {
			crowd(b, otherSockets)
			endpoint, text := serveAppService(b)
			ours := newLoopbackContender(b, kind.connections, kind.keep, endpoint, text)
			reply := ours.fetch(b)
			ln := listenLoopback(b)
			serveBareAt(b, ln, reply)
			reference := newLoopbackContender(b, kind.connections, kind.keep, "http://"+ln.Addr().String(), text)
			if got := reference.fetch(b); string(got) != string(reply) {
				b.Fatalf("the two answer differently: %d and %d bytes", len(reply), len(got))
			}
			b.ResetTimer()
			compare(b, ours, reference)
		})
	}
}

func listenLoopback(b *testing.B) net.Listener {
	ln, err := agentapi.ListenLoopback(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return ln
}

// serveAppService starts the agent's server, and returns the endpoint and a secret for this
// process.
func serveAppService(b *testing.B) (endpoint, text string) {
	owners, err := peer.OpenTCP()
	if err != nil {
		b.Skipf("owners of sockets cannot be found here: %v", err)
	}
	b.Cleanup(func() { _ = owners.Close() })
	keeper, err := appsecret.New(secret.New(strings.Repeat("k", 32)), "this boot", watchProcesses(b))
	if err != nil {
		b.Fatal(err)
	}
	rules := rulesFor(appUser)
	cfg := benchConfig(b, rules)
	cfg.Programs.Secrets = keeper
	ln := listenLoopback(b)
	serveWays(b, cfg, agentapi.AppService(ln, owners.Of))
	made, err := keeper.Mint(appsecret.Holder{Lifetime: appsecret.Process, UID: uint32(appUser), Identity: "shop", Process: ownProcess(b)})
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + ln.Addr().String(), made.Reveal()
}

// ownProcess is what the agent calls this process.
func ownProcess(b *testing.B) string {
	ln, err := net.Listen("unix", benchDir(b)+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	caller, err := peer.Of(conn)
	if err != nil {
		b.Fatal(err)
	}
	defer caller.Close()
	process, known := caller.ProcessID()
	if !known {
		b.Skip("processes have no names here")
	}
	return process
}

func newLoopbackContender(b *testing.B, connections int, keep bool, endpoint, text string) *contender {
	c := new(contender)
	c.ask = func(client *http.Client) ([]byte, error) {
		req, err := http.NewRequest(http.MethodGet, endpoint+wire.PathAppServiceToken+"?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set(wire.HeaderIdentity, text)
		return bodyOf(client.Do(req))
	}
	for range connections {
		transport := &http.Transport{DisableKeepAlives: !keep, DialContext: tooltest.DialAs(appUser)}
		b.Cleanup(transport.CloseIdleConnections)
		c.clients = append(c.clients, &http.Client{Transport: transport})
	}
	return c
}

// crowd opens sockets on loopback: connections, of which both ends are here.
func crowd(b *testing.B, sockets int) {
	ln := listenLoopback(b)
	b.Cleanup(func() { _ = ln.Close() })
	for range sockets / 2 {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Skipf("%d sockets are too many here: %v", sockets, err)
		}
		b.Cleanup(func() { _ = client.Close() })
		conn, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
	}
	b.Logf("%s other sockets are open", strconv.Itoa(sockets))
}
