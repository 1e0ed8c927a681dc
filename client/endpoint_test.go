package client_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

// replyWith serves one answer to every request at a socket.
func replyWith(t *testing.T, status int, body string, asked *string) string {
	t.Helper()
	socket := filepath.Join(tempDir(t), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.Method + " " + r.RequestURI
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return socket
}

func TestEndpoint(t *testing.T) {
	const body = `{"identity":"vm","secret":"s3cret","app_service":"http://127.0.0.1:840/msi/token","lifetime":"process"}`
	var asked string
	c := newClient(t, replyWith(t, 200, body, &asked))
	got, err := c.Endpoint(t.Context(), client.EndpointRequest{Identity: "v m&", Lifetime: wire.LifetimeUnit})
	if err != nil || got.Secret.Reveal() != "s3cret" || got.Identity != "vm" || got.AppService != "http://127.0.0.1:840/msi/token" || got.IMDS != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if asked != "POST /v1/endpoint?identity=v+m%26&lifetime=unit" {
		t.Errorf("asked for %s", asked)
	}
	if _, err := c.Endpoint(t.Context(), client.EndpointRequest{}); err != nil || asked != "POST /v1/endpoint" {
		t.Errorf("asked for %s, %v", asked, err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if text := fmt.Sprintf(verb, got); strings.Contains(text, "s3cret") {
			t.Errorf("printed, it shows %s", text)
		}
	}
}

func TestEndpointErrors(t *testing.T) {
	for name, body := range map[string]string{
		"no secret":                `{"identity":"vm","app_service":"http://127.0.0.1:840/msi/token","lifetime":"process"}`,
		"no URL":                   `{"identity":"vm","secret":"s3cret","lifetime":"process"}`,
		"a secret of another type": `{"identity":"vm","secret":{"s3cret":1},"app_service":"http://127.0.0.1:840/msi/token"}`,
		"no JSON":                  `s3cret`,
		"nothing":                  ``,
	} {
		var asked string
		_, err := newClient(t, replyWith(t, 200, body, &asked)).Endpoint(t.Context(), client.EndpointRequest{})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("an agent that serves no programs", func(t *testing.T) {
		_, err := newClient(t, startAgent(t, working, false)).Endpoint(t.Context(), client.EndpointRequest{})
		refused, ok := errors.AsType[*client.Error](err)
		if !ok || refused.Problem.Code != wire.CodeNotConfigured {
			t.Errorf("got %v", err)
		}
	})
}
