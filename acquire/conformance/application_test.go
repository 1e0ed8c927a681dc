package conformance_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha1" // x5t is defined over SHA-1 (RFC 7515, 4.1.7)
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	simentra "github.com/keyagent/keyagent/simulator/entra"
)

// applicationDemands are those of section 6.
func applicationDemands() []demand {
	sending := func(send acquire.SendAssertion) acquire.Credential {
		c := certificateEntry(acquire.BoundRequire)
		c.SendAssertion = send
		return c
	}
	return slices.Concat(assertionDemands(), []demand{
		{"6.1", "A: login host, no certificate on TLS, assertion jwt-bearer, no token_type, a Bearer token", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundNever)))
			token := a.mustGet(vault, acquire.TypeBearer)
			wantVariant(t, a.login, globalLogin, "A", token)
			a.wantTraffic("login 1")
		}},
		{"6.1", "B: mtlsauth host, certificate on TLS, assertion jwt-bearer, no token_type, a Bearer token", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			token := a.mustGet(vault, acquire.TypeBearer)
			wantVariant(t, a.mtls, globalMTLS, "B", token)
			a.wantTraffic("mtls 1")
		}},
		{"6.1", "B': as B without assertion, where the operator says never", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, sending(acquire.AssertionNever)))
			a.lets(simentra.ApplicationPolicy{MTLSEnabled: true, AssertionOverMTLS: simentra.AssertionOptional})
			token := a.mustGet(vault, acquire.TypeBearer)
			wantVariant(t, a.mtls, globalMTLS, "B'", token)
			a.wantTraffic("mtls 1")
		}},
		{"6.1", "C: mtlsauth host, certificate on TLS, no assertion, token_type mtls_pop, a bound token", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			token := a.mustGet(vault, acquire.TypePoP)
			wantVariant(t, a.mtls, globalMTLS, "C", token)
			a.wantTraffic("mtls 1")
		}},
		{"6.1", "never and 7000218: the reason is told, and no assertion is sent", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, sending(acquire.AssertionNever)))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if e, ok := errors.AsType[*acquire.Error](err); !ok || !strings.Contains(e.Hint, "send_assertion_over_mtls") {
				t.Errorf("got %+v", e)
			}
			a.wantTraffic("mtls 1")
		}},
		{"6.1", "auto: without assertion first, with one once Entra asks, and so from then on", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, sending(acquire.AssertionAuto)))
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 3 || m[0].form.Has("client_assertion") || !m[1].form.Has("client_assertion") || !m[2].form.Has("client_assertion") {
				t.Errorf("%d requests", len(m))
			}
		}},
		{"6.1", "the Bearer token of B is bound to nothing", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			token := a.mustGet(vault, acquire.TypeBearer)
			if claims := claimsOf(t, token.AccessToken.Reveal()); claims["cnf"] != nil {
				t.Errorf("got %v", claims["cnf"])
			}
		}},
		{"6.3", "51000 and bound: require: told, with what to do, and no other variant is tried", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			a.lets(simentra.ApplicationPolicy{})
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if e, ok := errors.AsType[*acquire.Error](err); !ok || e.Hint == "" {
				t.Errorf("got %+v", e)
			}
			a.wantTraffic("mtls 1")
		}},
		{"6.3", "51000 and bound: prefer: B gives way to A, and it is said", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundPrefer)))
			a.lets(simentra.ApplicationPolicy{})
			if token := a.mustGet(vault, acquire.TypeBearer); token.Bound || !token.Fallback || token.Strength != acquire.StrengthNone {
				t.Errorf("got %+v", token)
			}
			if !strings.Contains(a.log.String(), "passed over") {
				t.Error("the log does not say so")
			}
			a.wantTraffic("mtls 1, login 1")
		}},
		{"6.3", "C never gives way to A", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundPrefer)))
			a.lets(simentra.ApplicationPolicy{})
			_, err := a.get(vault, acquire.TypePoP)
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("mtls 1")
		}},
		{"6.3", "an outage is no reason to give way", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) {
				a.refuse = func(host string) error {
					if strings.Contains(host, "mtlsauth") {
						return errors.New("no route")
					}
					return nil
				}
			}, application(t, certApp, certificateEntry(acquire.BoundPrefer)))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			a.wantTraffic("")
		}},
	})
}

// lets changes what the directory lets the application do, for this case.
func (a *azure) lets(policy simentra.ApplicationPolicy) {
	a.t.Helper()
	before, err := a.entra.Policy(a.certApp)
	if err == nil {
		err = a.entra.SetPolicy(a.certApp, policy)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = a.entra.SetPolicy(a.certApp, before) })
}

// wantVariant looks at the only request, and at the token that came of it.
func wantVariant(t *testing.T, r *recorder, host, variant string, token acquire.Token) {
	t.Helper()
	m := r.requestsTo("token")[0]
	onTLS, pop := variant != "A", variant == "C"
	if m.host != host || (len(m.certificates) > 0) != onTLS {
		t.Errorf("asked %s with %d certificates", m.host, len(m.certificates))
	}
	if asserts := variant == "A" || variant == "B"; m.form.Has("client_assertion") != asserts || m.form.Has("client_assertion_type") != asserts {
		t.Errorf("assertion: %v", !asserts)
	} else if asserts && m.form.Get("client_assertion_type") != string(entra.AssertionBearer) {
		t.Errorf("assertion of type %s", m.form.Get("client_assertion_type"))
	}
	if m.form.Has("token_type") != pop || token.Bound != onTLS {
		t.Errorf("token_type %q, bound %v", m.form.Get("token_type"), token.Bound)
	}
	if want := map[bool]string{false: "Bearer", true: "mtls_pop"}[pop]; token.TokenType != want {
		t.Errorf("got a token of type %s", token.TokenType)
	}
}

func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	return jwtPart(t, token, 1)
}

// jwtPart decodes the header (0) or the claims (1) of a JWT.
func jwtPart(t *testing.T, token string, part int) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[part])
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fields
}

// assertionDemands are those of 6.2.
func assertionDemands() []demand {
	// assertion is what an application sends whose key can, or cannot, sign PSS.
	assertion := func(t *testing.T, bound acquire.Bound, pss bool) (*azure, string) {
		t.Helper()
		a := newAzureWith(t, func(a *azure) {
			key := *a.keys["app"]
			key.PSS = pss
			a.keys["app"] = &key
		}, application(t, certApp, certificateEntry(bound)))
		a.mustGet(vault, acquire.TypeBearer)
		return a, slices.Concat(a.mtls.all(), a.login.all())[0].form.Get("client_assertion")
	}
	return []demand{
		{"6.2", "PS256, typ JWT, x5t#S256 in base64url without padding, x5c an array, the leaf first", func(t *testing.T) {
			a, text := assertion(t, acquire.BoundRequire, true)
			header := jwtPart(t, text, 0)
			if header["alg"] != "PS256" || header["typ"] != "JWT" || header["x5t#S256"] != x5t(a.appLeaf.Raw) || header["x5t"] != nil {
				t.Errorf("header is %v", header)
			}
			if chain, ok := header["x5c"].([]any); !ok || len(chain) != 1 || chain[0] != base64.StdEncoding.EncodeToString(a.appLeaf.Raw) {
				t.Errorf("x5c is %v", header["x5c"])
			}
		}},
		{"6.2", "the PS256 signature has a salt of 32 bytes", func(t *testing.T) {
			a, text := assertion(t, acquire.BoundNever, true)
			at := strings.LastIndex(text, ".")
			digest := sha256.Sum256([]byte(text[:at]))
			signature, err := base64.RawURLEncoding.DecodeString(text[at+1:])
			if err == nil {
				err = rsa.VerifyPSS(&a.appKey.PublicKey, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: 32})
			}
			if err != nil {
				t.Error(err)
			}
		}},
		{"6.2", "RS256 with x5t for a key without PSS", func(t *testing.T) {
			a, text := assertion(t, acquire.BoundNever, false)
			header := jwtPart(t, text, 0)
			sum := sha1.Sum(a.appLeaf.Raw)
			if header["alg"] != "RS256" || header["x5t"] != base64.RawURLEncoding.EncodeToString(sum[:]) || header["x5t#S256"] != nil {
				t.Errorf("header is %v", header)
			}
		}},
		{"6.2", "aud is the token endpoint that is asked, the mtlsauth host in B", func(t *testing.T) {
			for bound, host := range map[acquire.Bound]string{acquire.BoundRequire: globalMTLS, acquire.BoundNever: globalLogin} {
				a, text := assertion(t, bound, true)
				if got, want := claimsOf(t, text)["aud"], "https://"+host+"/"+a.tenant+"/oauth2/v2.0/token"; got != want {
					t.Errorf("aud is %v, want %s", got, want)
				}
			}
		}},
		{"6.2", "iss and sub are the client id, jti is a GUID, nbf and exp are numbers ten minutes apart, no iat", func(t *testing.T) {
			a, text := assertion(t, acquire.BoundNever, true)
			claims := claimsOf(t, text)
			if names := slices.Sorted(maps.Keys(claims)); !slices.Equal(names, []string{"aud", "exp", "iss", "jti", "nbf", "sub"}) {
				t.Errorf("claims are %v", names)
			}
			jti, _ := claims["jti"].(string)
			nbf, okN := claims["nbf"].(float64)
			exp, okE := claims["exp"].(float64)
			if claims["iss"] != a.certApp || claims["sub"] != a.certApp || uuid.Validate(jti) != nil || !okN || !okE ||
				exp-nbf != 600 || int64(nbf) != a.clock.Now().Unix() {
				t.Errorf("claims are %v", claims)
			}
		}},
		{"6.2", "each request has an assertion of its own", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundNever)))
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			m := a.login.requestsTo("token")
			if claimsOf(t, m[0].form.Get("client_assertion"))["jti"] == claimsOf(t, m[1].form.Get("client_assertion"))["jti"] {
				t.Error("one assertion twice")
			}
		}},
		{"6.2", "the assertion is not logged", func(t *testing.T) {
			a, text := assertion(t, acquire.BoundRequire, true)
			if strings.Contains(a.log.String(), text[:40]) {
				t.Error("the log has it")
			}
		}},
		{"6.2", "a key that fails to sign is told, and nothing is sent", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) {
				key := *a.keys["app"]
				key.Signer = func(context.Context) crypto.Signer { return brokenKey{a.appKey} }
				a.keys["app"] = &key
			}, application(t, certApp, certificateEntry(acquire.BoundNever)))
			_, err := a.bearer()
			wantError(t, err, "out of order")
			a.wantTraffic("")
		}},
	}
}

// brokenKey signs nothing.
type brokenKey struct{ *rsa.PrivateKey }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("out of order")
}
