package agentapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

func TestToken(t *testing.T) {
	var asked acquire.Request
	a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		asked = asksFor(r)
		return goodToken(r), nil
	}, rulesFor(os.Geteuid())))

	t.Run("the reply has everything that is known", func(t *testing.T) {
		got := a.get(t, wire.PathToken+"?identity=vm&type=bearer&resource="+vault)
		token := decode[wire.TokenResponse](t, got.body)
		if token.AccessToken.Reveal() != tokenText {
			t.Error("another token")
		}
		token.AccessToken = wire.Secret{}
		want := wire.TokenResponse{
			TokenType: "Bearer", ExpiresIn: 3600, ExpiresOn: now.Unix() + 3600, NotBefore: now.Unix() - 300,
			Resource: vault, Identity: "vm", ClientID: vmClient, Credential: "managed_identity", Bound: true, Strength: "attested",
			Binding: &wire.Binding{Thumbprint: "dGh1bWI", TLSVersion: "TLS 1.3", SignatureAlgorithm: "rsa_pss_rsae_sha256"},
		}
		if diff := cmp.Diff(want, token, cmp.Comparer(func(a, b wire.Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
			t.Error(diff)
		}
	})

	forms := []struct{ name, query, resource string }{
		{"a resource", "resource=" + vault, vault},
		{"a resource with a slash is asked for with it", "resource=" + vault + "/", vault + "/"},
		{"a resource with a default scope", "resource=" + vault + "/.default", vault},
		{"a scope", "scope=" + vault + "/.default", vault},
		{"a scope of a resource with a slash", "scope=" + vault + "//.default", vault + "/"},
		{"a percent-encoded resource", "resource=" + url.QueryEscape(vault), vault},
	}
	for _, tt := range forms {
		t.Run(tt.name, func(t *testing.T) {
			if got := a.get(t, wire.PathToken+"?identity=shop&"+tt.query); got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			want := acquire.Request{Identity: "shop", Resource: tt.resource, Type: acquire.TypeBearer}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("what the source was asked for (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTokenOfOnlyIdentity(t *testing.T) {
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Identities = []string{"shop"}
	a := start(t, config(working, rules))
	for _, target := range []string{
		wire.PathToken + "?resource=" + vault,
		wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault,
	} {
		if got := a.get(t, target, "Metadata", "true"); got.status != 200 {
			t.Errorf("%s: %d %s", target, got.status, got.body)
		}
		if got := a.audit.lastRecord(t)["identity"]; got != "shop" {
			t.Errorf("%s: identity %v", target, got)
		}
	}
}

func TestTokenParameters(t *testing.T) {
	a := start(t, config(failing(errors.New("must not be asked")), rulesFor(os.Geteuid())))
	tests := []struct {
		name, query string
		code        wire.Code
		field       string
	}{
		{"no resource", "identity=vm", wire.CodeMissingParameter, "resource"},
		{"nothing at all", "", wire.CodeMissingParameter, "resource"},
		{"an empty resource", "identity=vm&resource=", wire.CodeInvalidParameter, "resource"},
		{"resource and scope", "identity=vm&resource=" + vault + "&scope=" + vault + "/.default", wire.CodeInvalidParameter, "scope"},
		{"a scope that is a single permission", "identity=vm&scope=https://graph.microsoft.com/User.Read", wire.CodeInvalidParameter, "scope"},
		{"two scopes", "identity=vm&scope=" + vault + "/.default+" + storage + "/.default", wire.CodeInvalidParameter, "scope"},
		{"two resources in one", "identity=vm&resource=" + vault + "+" + storage, wire.CodeInvalidParameter, "resource"},
		{"a line break in the resource", "identity=vm&resource=" + vault + "%0d%0aX:1", wire.CodeInvalidParameter, "resource"},
		{"the resource twice", "identity=vm&resource=" + vault + "&resource=" + storage, wire.CodeInvalidParameter, "resource"},
		{"the resource twice, once encoded", "identity=vm&resource=" + vault + "&%72esource=" + storage, wire.CodeInvalidParameter, "resource"},
		{"the identity twice", "identity=vm&identity=backup&resource=" + vault, wire.CodeInvalidParameter, "identity"},
		{"an empty identity", "identity=&resource=" + vault, wire.CodeInvalidParameter, "identity"},
		{"a very long identity", "identity=" + strings.Repeat("v", 200) + "&resource=" + vault, wire.CodeInvalidParameter, "identity"},
		{"an unknown type", "identity=vm&type=pop&resource=" + vault, wire.CodeInvalidParameter, "type"},
		{"a type in another case", "identity=vm&type=Bearer&resource=" + vault, wire.CodeInvalidParameter, "type"},
		{"claims that are base64", "identity=vm&claims=eyJhIjoxfQ&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that ask for nothing", "identity=vm&claims=%7B%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that declare capabilities", "identity=vm&claims=%7B%22access_token%22%3A%7B%22xms_cc%22%3A%7B%22values%22%3A%5B%22cp1%22%5D%7D%7D%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that are a list", "identity=vm&claims=%5B%7B%7D%5D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"two claims in one", "identity=vm&claims=%7B%7D%7B%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that are not whole", "identity=vm&claims=%7B&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that are not text", "identity=vm&claims=%7B%22%ff%22:1%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"claims that are too long", "identity=vm&claims=%7B" + strings.Repeat("+", wire.MaxClaimsBytes-1) + "%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"no claims", "identity=vm&claims=&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"the claims twice", "identity=vm&claims=%7B%7D&claims=%7B%7D&resource=" + vault, wire.CodeInvalidParameter, "claims"},
		{"an unknown capability", "identity=vm&capabilities=cp1,cp2&resource=" + vault, wire.CodeInvalidParameter, "capabilities"},
		{"a capability in capitals", "identity=vm&capabilities=CP1&resource=" + vault, wire.CodeInvalidParameter, "capabilities"},
		{"a comma too many", "identity=vm&capabilities=cp1,&resource=" + vault, wire.CodeInvalidParameter, "capabilities"},
		{"a refresh that is neither", "identity=vm&force_refresh=1&resource=" + vault, wire.CodeInvalidParameter, "force_refresh"},
		{"the IMDS way to skip the cache", "identity=vm&bypass_cache=true&resource=" + vault, wire.CodeInvalidParameter, "bypass_cache"},
		{"a misspelt parameter", "identity=vm&resourse=" + vault, wire.CodeInvalidParameter, "resourse"},
		{"a parameter of the IMDS protocol", "client_id=" + shopClient + "&resource=" + vault, wire.CodeInvalidParameter, "client_id"},
		{"a bad escape", "identity=vm&resource=%zz", wire.CodeInvalidParameter, "query"},
		{"a semicolon", "identity=vm;resource=" + vault, wire.CodeInvalidParameter, "query"},
		{"no identity where there are several", "resource=" + vault, wire.CodeAmbiguousIdentity, "identity"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := a.get(t, wire.PathToken+"?"+tt.query).problem(t)
			if p.Status != 400 || p.Code != tt.code || p.Field != tt.field {
				t.Errorf("got %+v, want 400 %s of %s", p, tt.code, tt.field)
			}
		})
	}
	t.Run("the several identities are named, but no other", func(t *testing.T) {
		detail := a.get(t, wire.PathToken+"?resource="+vault).problem(t).Detail
		if !strings.Contains(detail, "vm, shop") || strings.Contains(detail, "backup") {
			t.Errorf("detail %q", detail)
		}
	})
	t.Run("the status takes no parameters", func(t *testing.T) {
		if p := a.get(t, wire.PathStatus+"?verbose=1").problem(t); p.Code != wire.CodeInvalidParameter || p.Field != "verbose" {
			t.Errorf("got %+v", p)
		}
	})
}

func TestTokenRefused(t *testing.T) {
	a := start(t, config(failing(errors.New("must not be asked")), rulesFor(os.Geteuid())))
	tests := []struct{ name, query string }{
		{"an identity of another rule", "identity=backup&resource=" + vault},
		{"an identity that does not exist", "identity=no-such&resource=" + vault},
		{"another resource", "identity=vm&resource=" + storage},
		{"a longer resource", "identity=vm&resource=" + vault + ".evil.example"},
	}
	t.Run("a resource without its scheme", func(t *testing.T) {
		p := a.get(t, wire.PathToken+"?identity=vm&resource="+strings.TrimPrefix(vault, "https://")).problem(t)
		if p.Code != wire.CodeNotAllowed || !strings.HasSuffix(p.Hint, ": "+vault) {
			t.Errorf("got %+v", p)
		}
	})
	details := make(map[string]string)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := a.get(t, wire.PathToken+"?"+tt.query).problem(t)
			if p.Status != 403 || p.Code != wire.CodeNotAllowed {
				t.Errorf("got %+v", p)
			}
			if !strings.Contains(p.Hint, "curl --unix-socket "+a.socket+" http://localhost"+wire.PathIdentities) {
				t.Errorf("the hint does not say where to ask what is allowed: %q", p.Hint)
			}
			details[tt.name] = strings.NewReplacer("backup", "ID", "no-such", "ID").Replace(p.Detail + p.Hint + p.Field + p.Identity)
			record := a.audit.lastRecord(t)
			if record["decision"] != "refused" || record["code"] != "not_allowed" || record["reason"] == nil || record["rule"] != nil {
				t.Errorf("audit %v", record)
			}
		})
	}
	if details["an identity of another rule"] != details["an identity that does not exist"] {
		t.Errorf("whether an identity exists can be told: %q", details)
	}
}

func TestSourceErrors(t *testing.T) {
	cause := errors.New("POST /metadata/identity/issuecredential: 500")
	failed := func(kind acquire.Kind, after time.Duration) error {
		return &acquire.Error{Kind: kind, Identity: "vm", Hint: "look at IMDS", RetryAfter: after, Err: cause}
	}
	tests := []struct {
		name       string
		err        error
		status     int
		code       wire.Code
		retryAfter string
		imdsStatus int
		imdsError  string
		decision   string
	}{
		{"unavailable", failed(acquire.KindUnavailable, 0), 503, wire.CodeUnavailable, "5", 503, "temporarily_unavailable", "failed"},
		{"unavailable for a known time", failed(acquire.KindUnavailable, 1500*time.Millisecond), 503, wire.CodeUnavailable, "2", 503, "temporarily_unavailable", "failed"},
		{"throttled", failed(acquire.KindThrottled, 30*time.Second), 429, wire.CodeThrottled, "30", 429, "too_many_requests", "failed"},
		{"throttled for a year", failed(acquire.KindThrottled, 365*24*time.Hour), 429, wire.CodeThrottled, "3600", 429, "too_many_requests", "failed"},
		{"throttled for a negative time", failed(acquire.KindThrottled, -time.Second), 429, wire.CodeThrottled, "5", 429, "too_many_requests", "failed"},
		{"a resource that Entra does not know", failed(acquire.KindInvalidResource, 0), 400, wire.CodeInvalidResource, "", 400, "invalid_resource", "refused"},
		{"a credential that is refused", failed(acquire.KindRefused, 0), 502, wire.CodeCredentialRefused, "", 400, "unauthorized_client", "failed"},
		{"an identity that the VM does not have", failed(acquire.KindUnknownIdentity, 0), 403, wire.CodeIdentityNotFound, "", 400, "identity_not_found", "refused"},
		{"a wrapped error", fmt.Errorf("outer: %w", failed(acquire.KindUnavailable, 0)), 503, wire.CodeUnavailable, "5", 503, "temporarily_unavailable", "failed"},
		{"a kind of the future", failed("brand_new", 0), 500, wire.CodeInternal, "", 500, "unknown", "failed"},
		{"an error of no kind", cause, 500, wire.CodeInternal, "", 500, "unknown", "failed"},
		{"a context that ended inside", context.DeadlineExceeded, 503, wire.CodeUnavailable, "5", 503, "temporarily_unavailable", "failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, config(failing(tt.err), rulesFor(os.Geteuid())))
			got := a.get(t, wire.PathToken+"?identity=vm&resource="+vault)
			p := got.problem(t)
			if p.Status != tt.status || p.Code != tt.code || p.Identity != "vm" || got.header.Get("Retry-After") != tt.retryAfter {
				t.Errorf("got %+v, Retry-After %q", p, got.header.Get("Retry-After"))
			}
			if internal := tt.code == wire.CodeInternal; strings.Contains(p.Detail+p.Hint, cause.Error()) && internal {
				t.Errorf("an internal error is shown: %q", p.Detail)
			} else if internal && !strings.Contains(a.log.String(), cause.Error()) {
				t.Errorf("an internal error is not logged: %s", a.log)
			}
			if record := a.audit.lastRecord(t); record["decision"] != tt.decision || record["rule"] != "shop" || record["code"] != string(tt.code) {
				t.Errorf("audit %v", record)
			}

			got = a.get(t, wire.PathIMDSToken+"?api-version=2018-02-01&resource="+vault+"&client_id="+shopClient, "Metadata", "true")
			if said := decode[wire.IMDSError](t, got.body); got.status != tt.imdsStatus || said.Error != tt.imdsError || said.Description == "" {
				t.Errorf("IMDS protocol: %d %+v", got.status, said)
			}
		})
	}
	t.Run("detail and hint reach the caller", func(t *testing.T) {
		a := start(t, config(failing(failed(acquire.KindUnavailable, 0)), rulesFor(os.Geteuid())))
		p := a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t)
		if !strings.Contains(p.Detail, cause.Error()) || p.Hint != "look at IMDS" {
			t.Errorf("got %+v", p)
		}
	})
	t.Run("a foreign text is cut and cannot break a line", func(t *testing.T) {
		a := start(t, config(failing(&acquire.Error{Kind: acquire.KindRefused, Err: errors.New("x\r\n\x1b[31m" + strings.Repeat("ä", 5000) + "\xff")}), rulesFor(os.Geteuid())))
		p := a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t)
		if len(p.Detail) > 1024 || strings.ContainsAny(p.Detail, "\r\n\x1b\ufffd") {
			t.Errorf("detail %q", p.Detail)
		}
	})
}

// A source that mixes up its tokens must not make the server hand one out.
func TestWrongTokens(t *testing.T) {
	tests := []struct {
		name   string
		change func(*acquire.Token)
		status int
	}{
		{"an empty token", func(t *acquire.Token) { t.AccessToken = secret.String{} }, 500},
		{"a token of another identity", func(t *acquire.Token) { t.Identity = "backup" }, 500},
		{"a token of another type", func(t *acquire.Token) { t.TokenType = "mtls_pop" }, 500},
		{"a token of no type", func(t *acquire.Token) { t.TokenType = "" }, 500},
		{"an expired token", func(t *acquire.Token) { t.ExpiresOn = now.Add(-time.Second) }, 503},
		{"a token that expires now", func(t *acquire.Token) { t.ExpiresOn = now }, 503},
		{"a token without an expiry", func(t *acquire.Token) { t.ExpiresOn = time.Time{} }, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
				token := goodToken(r)
				tt.change(&token)
				return token, nil
			}, rulesFor(os.Geteuid())))
			for _, target := range []string{
				wire.PathToken + "?identity=vm&resource=" + vault,
				wire.PathIMDSToken + "?api-version=2018-02-01&client_id=" + shopClient + "&resource=" + vault,
			} {
				got := a.get(t, target, "Metadata", "true")
				if got.status != tt.status || strings.Contains(string(got.body), tokenText) {
					t.Errorf("%s: %d %s", target, got.status, got.body)
				}
				if a.audit.lastRecord(t)["decision"] != "failed" {
					t.Errorf("audit %v", a.audit.lastRecord(t))
				}
			}
		})
	}
}

func TestTokenThatNobodyWaitsFor(t *testing.T) {
	t.Run("a caller is told to come back when the time is over", func(t *testing.T) {
		cfg := config(func(ctx context.Context, _ acquire.Request) (acquire.Token, error) {
			<-ctx.Done()
			return acquire.Token{}, ctx.Err()
		}, rulesFor(os.Geteuid()))
		cfg.RequestTimeout = time.Millisecond
		a := start(t, cfg)
		p := a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t)
		if p.Code != wire.CodeUnavailable || p.RetryAfter == 0 {
			t.Errorf("got %+v", p)
		}
		cfg.Waits = func() []string { return []string{"the TPM", "Entra's token endpoint at login.example"} }
		a = start(t, cfg)
		p = a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t)
		if p.Code != wire.CodeUnavailable || !strings.HasSuffix(p.Detail, "waits for the TPM; Entra's token endpoint at login.example") || strings.Contains(p.Hint, "log") {
			t.Errorf("with what is waited for: got %+v", p)
		}
	})
	t.Run("a caller that goes away ends its own request, and is in the audit", func(t *testing.T) {
		asked := make(chan struct{})
		cfg := config(func(ctx context.Context, _ acquire.Request) (acquire.Token, error) {
			close(asked)
			<-ctx.Done()
			return acquire.Token{}, ctx.Err()
		}, rulesFor(os.Geteuid()))
		cfg.RequestTimeout, cfg.ShutdownGrace = time.Hour, time.Hour
		a := start(t, cfg)
		conn := a.send(t, "GET "+wire.PathToken+"?identity=vm&resource="+vault+" HTTP/1.1\r\nHost: agent\r\n\r\n")
		<-asked
		_ = conn.Close()
		a.stop(t) // waits for the request
		if record := a.audit.lastRecord(t); record["decision"] != "failed" || record["status"] != 503.0 {
			t.Errorf("audit %v", record)
		}
	})
}

func TestNew(t *testing.T) {
	good := func() agentapi.Config {
		cfg := config(working, rulesFor(1000))
		cfg.Audit = slog.New(slog.DiscardHandler)
		return cfg
	}
	if _, err := agentapi.New(good()); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*agentapi.Config)
	}{
		{"no token source", func(c *agentapi.Config) { c.Tokens = nil }},
		{"no status", func(c *agentapi.Config) { c.Status = nil }},
		{"no policy", func(c *agentapi.Config) { c.Policy = nil }},
		{"no capabilities", func(c *agentapi.Config) { c.Capabilities = nil }},
		{"no audit", func(c *agentapi.Config) { c.Audit = nil }},
		{"a rule for an identity that does not exist", func(c *agentapi.Config) { c.Policy.Rules[0].Identities = []string{"no-such"} }},
		{"a rule that names nobody", func(c *agentapi.Config) { c.Policy.Rules[0].UIDs = nil }},
		{"a policy that is not valid", func(c *agentapi.Config) { c.Policy.Rules = append(c.Policy.Rules, policy.Rule{}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name+" is refused", func(t *testing.T) {
			cfg := good()
			tt.change(&cfg)
			if _, err := agentapi.New(cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}
