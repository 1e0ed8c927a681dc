package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/keyagent/keyagent/client"
)

func ExampleClient_Token() {
	agent := client.New(client.Config{Socket: "/nonexistent/agent.sock"}) // leave Socket out for the agent of this machine
	defer func() { _ = agent.Close() }()

	token, err := agent.Token(context.Background(), client.TokenRequest{Resource: "https://vault.azure.net"})
	if errors.Is(err, client.ErrNotReachable) {
		fmt.Println("start keyagent")
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://example.vault.azure.net/secrets", nil)
	req.Header.Set("Authorization", "Bearer "+token.AccessToken.Reveal())
	// Output: start keyagent
}
