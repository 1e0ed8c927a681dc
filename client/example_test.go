package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/client"
)

// fakeAgent answers at a Unix socket as the agent does: one identity, one resource. A program that
// uses the library can be tested with such a server.
func fakeAgent() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	socket = filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("resource") != "https://vault.azure.net" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"code": "not_allowed", "title": "no rule allows this resource",
				"hint": "ask the administrator for a rule"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "header.payload.signature", "token_type": "Bearer",
			"expires_on": 4102444800, "identity": "vm", "strength": "attested"}`)
	}))
	_ = server.Listener.Close() // the one on loopback
	server.Listener = listener
	server.Start()
	return socket, func() {
		server.Close()
		_ = os.RemoveAll(dir)
	}
}

// A program asks for a token whenever it needs one, and puts it into the request to the API.
func ExampleClient_Token() {
	socket, stop := fakeAgent()
	defer stop()

	agent := client.New(client.Config{Socket: socket}) // without Socket: the agent of this machine
	defer func() { _ = agent.Close() }()

	ctx := context.Background()
	token, err := agent.Token(ctx, client.TokenRequest{Resource: "https://vault.azure.net"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("identity:", token.Identity)
	fmt.Println("expires:", token.Expiry().UTC().Year())
	fmt.Println("printed, a token shows nothing:", token.AccessToken)

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.vault.azure.net/secrets", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	req.Header.Set("Authorization", token.TokenType+" "+token.AccessToken.Reveal())
	fmt.Println(req.Header.Get("Authorization"))
	// Output:
	// identity: vm
	// expires: 2100
	// printed, a token shows nothing: [redacted]
	// Bearer header.payload.signature
}

// A program that calls an API through net/http: each request to a listed host gets a token.
func ExampleNewTransport() {
	socket, stop := fakeAgent()
	defer stop()
	vault := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "the vault saw ", r.Header.Get("Authorization"))
	}))
	defer vault.Close()

	agent := client.New(client.Config{Socket: socket})
	defer func() { _ = agent.Close() }()
	transport, err := client.NewTransport(client.TransportConfig{
		Source: agent.TokenSource(client.TokenRequest{Resource: "https://vault.azure.net"}),
		Hosts:  []string{vault.Listener.Addr().String()}, // of Azure: ".vault.azure.net"
		Base:   vault.Client().Transport,
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	resp, err := (&http.Client{Transport: transport}).Get(vault.URL + "/secrets")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: the vault saw Bearer header.payload.signature <nil>
}

// A source is asked before each use. It keeps the token, and the agent is asked from time to time.
func ExampleClient_TokenSource() {
	socket, stop := fakeAgent()
	defer stop()

	agent := client.New(client.Config{Socket: socket})
	defer func() { _ = agent.Close() }()
	source := agent.TokenSource(client.TokenRequest{Resource: "https://vault.azure.net"})

	for range 2 {
		token, err := source.Token(context.Background())
		fmt.Println(token.TokenType, token.Expiry().UTC().Year(), err)
	}
	// Output:
	// Bearer 2100 <nil>
	// Bearer 2100 <nil>
}

// Decide on the kind of an error with errors.Is and errors.As, and show the agent's own hint.
func ExampleError() {
	socket, stop := fakeAgent()
	defer stop()

	agent := client.New(client.Config{Socket: socket})
	defer func() { _ = agent.Close() }()

	_, err := agent.Token(context.Background(), client.TokenRequest{Resource: "https://storage.azure.com"})
	var answer *client.Error
	if errors.As(err, &answer) {
		fmt.Println("by the agent's rules:", errors.Is(err, client.ErrRefused))
		fmt.Println(answer.Problem.Code)
		fmt.Println(answer.Problem.Hint)
	}
	// Output:
	// by the agent's rules: true
	// not_allowed
	// ask the administrator for a rule
}

// Without an agent there is no token; the error says so.
func ExampleClient_Token_withoutAgent() {
	agent := client.New(client.Config{Socket: "/nonexistent/agent.sock"})
	defer func() { _ = agent.Close() }()

	_, err := agent.Token(context.Background(), client.TokenRequest{Resource: "https://vault.azure.net"})
	if errors.Is(err, client.ErrNotReachable) {
		fmt.Println("start keyagent")
	}
	// Output: start keyagent
}
