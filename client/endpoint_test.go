package client_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

const goodEndpoint = `{"identity":"vm","secret":"s3cret","app_service":"http://127.0.0.1:840/msi/token","lifetime":"unit","new":1}`

func TestEndpointIsAskedForByPost(t *testing.T) {
	var asked string
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.String()
		_, _ = w.Write([]byte(goodEndpoint))
	})
	for _, tt := range []struct {
		req  client.EndpointRequest
		want string
	}{
		{client.EndpointRequest{}, "POST /v1/endpoint"},
		{client.EndpointRequest{Identity: "a b", Lifetime: wire.LifetimeUnit}, "POST /v1/endpoint?identity=a+b&lifetime=unit"},
	} {
		got, err := newClient(t, socket).Endpoint(t.Context(), tt.req)
		if err != nil || asked != tt.want || got.Secret.Reveal() != "s3cret" || got.AppService != "http://127.0.0.1:840/msi/token" || got.Identity != "vm" {
			t.Errorf("asked %q, want %q, got %+v, %v", asked, tt.want, got, err)
		}
	}
}

func TestAnAnswerThatIsNoEndpointIsAnErrorWithoutTheSecret(t *testing.T) {
	for _, body := range []string{
		"", "<html>s3cret", `{"secret":"s3cret"}`, `{"app_service":"http://127.0.0.1:840/msi/token"}`, `{"secret":["s3cret"],"app_service":"x"}`, `[]`,
		strings.Replace(goodEndpoint, `"secret":"s3cret"`, `"secret":""`, 1),
	} {
		socket := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
		got, err := newClient(t, socket).Endpoint(t.Context(), client.EndpointRequest{})
		if err == nil || strings.Contains(err.Error(), "s3cret") || !got.Secret.IsZero() {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
	}
}

func TestAnAgentThatServesNoProgramsSaysSo(t *testing.T) {
	_, err := newClient(t, startAgent(t, working, false)).Endpoint(t.Context(), client.EndpointRequest{})
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Problem.Code != wire.CodeNotConfigured {
		t.Errorf("got %v", err)
	}
}
