package acquire_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keyagent/keyagent/acquire"
)

// account counts the flights that it is charged for.
type counting struct {
	charged int
	refuses error
}

func (c *counting) Charge() error { c.charged++; return c.refuses }

func (w *world) pair(req acquire.PairRequest) (*acquire.Pair, error) {
	w.t.Helper()
	return w.acquirer.Pair(w.t.Context(), req)
}

// The pair of an identity is what its tokens are bound to, whichever credential obtains them.
func TestPairIsWhatTokensAreBoundTo(t *testing.T) {
	via := acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "vm"}
	viaApp := acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "cert"}
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"),
		application("cert", certificateEntry(acquire.BoundRequire)),
		application("fic", managedEntry(acquire.BoundRequire)),
		application("oidc", via), application("oidc-of-cert", viaApp),
		application("list", acquire.Credential{Name: "unbound", Source: acquire.SourceCertificate, Bound: acquire.BoundNever, Key: "app"},
			certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)),
	)
	w.addKey("app")
	rejected := refusal(401, "invalid_client", 700027)
	w.plays(always)
	check := func(t *testing.T, identity, credential string) {
		t.Helper()
		token := w.mustGet(acquire.Request{Identity: identity, Type: acquire.TypePoP, ForceRefresh: true})
		pair, err := w.pair(acquire.PairRequest{Identity: identity})
		if err != nil {
			t.Fatal(err)
		}
		if pair.Thumbprint != token.Binding.Thumbprint || pair.Credential != token.Credential || pair.Strength != token.Strength {
			t.Errorf("the pair is %q of %q (%s), the token's %q of %q (%s)", pair.Thumbprint, pair.Credential, pair.Strength,
				token.Binding.Thumbprint, token.Credential, token.Strength)
		}
		if credential != "" && pair.Credential != credential {
			t.Errorf("it is that of %q", pair.Credential)
		}
		named, err := w.pair(acquire.PairRequest{Identity: identity, Thumbprint: pair.Thumbprint})
		if err != nil || named.Thumbprint != pair.Thumbprint || len(named.Chain) != 1 || named.Signer(t.Context()).Public() == nil {
			t.Errorf("by its thumbprint: %+v, %v", named, err)
		}
	}
	for _, identity := range []string{"vm", "cert", "fic", "oidc", "oidc-of-cert", "list"} {
		t.Run(identity, func(t *testing.T) { check(t, identity, "") })
	}
	t.Run("of a list, that of the credential that works", func(t *testing.T) {
		w.plays(rejects("cert", rejected))
		check(t, "list", "mi")
	})
	t.Run("of a list, any by its thumbprint", func(t *testing.T) {
		for _, other := range []string{"cert", "vm"} {
			own, err := w.pair(acquire.PairRequest{Identity: other})
			if err != nil {
				t.Fatal(err)
			}
			if p, err := w.pair(acquire.PairRequest{Identity: "list", Thumbprint: own.Thumbprint}); err != nil || p.Thumbprint != own.Thumbprint {
				t.Errorf("that of %s: %v, %v", other, p, err)
			}
		}
	})
}

func TestPairFollowsTheCertificate(t *testing.T) {
	w := newWorld(t)
	before, err := w.pair(acquire.PairRequest{Identity: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	w.rotate("", "second", true)
	account := new(counting)
	_, err = w.pair(acquire.PairRequest{Identity: "vm", Thumbprint: before.Thumbprint, Account: account})
	if !errors.Is(err, acquire.ErrOtherPair) || account.charged != 1 {
		t.Errorf("the certificate before: %v, charged %d times", err, account.charged)
	}
	after, err := w.pair(acquire.PairRequest{Identity: "vm", Account: account})
	if err != nil || after.Thumbprint != w.current.Thumbprint() || account.charged != 1 {
		t.Errorf("%+v, %v, charged %d times", after, err, account.charged)
	}
}

func TestPairIsRefused(t *testing.T) {
	attested := managed("attested")
	attested.MinStrength = acquire.StrengthAttested
	unbound := acquire.Identity{Name: "unbound", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundNever}}
	lost := &acquire.Error{Kind: acquire.KindThrottled, Err: errors.New("too much")}
	for _, tt := range []struct {
		name     string
		identity string
		account  *counting
		prepare  func(*world)
		want     acquire.Kind
	}{
		{"of an identity that does not exist", "nobody", nil, nil, acquire.KindUnknownIdentity},
		{"of an identity that is not bound", "unbound", nil, nil, acquire.KindRefused},
		{"of one that is weaker than the identity demands", "attested", nil, func(w *world) { w.rotate("", "weak", false) }, acquire.KindRefused},
		{"without a key", "cert", nil, nil, acquire.KindRefused},
		{"to an account that has asked too much", "vm", &counting{refuses: lost}, func(w *world) { w.current = nil }, acquire.KindThrottled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldWith(t, acquire.StrengthTPM, managed("vm"), attested, unbound, application("cert", certificateEntry(acquire.BoundRequire)))
			if tt.prepare != nil {
				tt.prepare(w)
			}
			req := acquire.PairRequest{Identity: tt.identity}
			if tt.account != nil {
				req.Account = tt.account
			}
			pair, err := w.pair(req)
			failed, ok := errors.AsType[*acquire.Error](err)
			if pair != nil || !ok || failed.Kind != tt.want {
				t.Errorf("got %v, %v", pair, err)
			}
		})
	}
	t.Run("when the caller has gone", func(t *testing.T) {
		w := newWorld(t)
		w.current, w.bindingErr = nil, context.Canceled
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.acquirer.Pair(ctx, acquire.PairRequest{Identity: "vm"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
