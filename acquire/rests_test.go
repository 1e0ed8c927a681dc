package acquire_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
)

func TestAKeyThatComesIsNoticedWithTheNextRequest(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
		t.Fatal("got a token without a key")
	}
	w.addKey("app")
	w.mustGet(acquire.Request{Identity: "app"})
}

func TestARefusalThatIsRememberedSaysSo(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.addKey("app")
	seen := w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 700027) })
	_, first := w.get(acquire.Request{Identity: "app"})
	_, second := w.get(acquire.Request{Identity: "app"})
	if first == nil || second == nil || strings.Contains(first.Error(), "remembered") || !strings.Contains(second.Error(), "remembered; asked again in 5s") || len(*seen) != 1 {
		t.Errorf("got %v, then %v after %d requests", first, second, len(*seen))
	}
	if e, ok := errors.AsType[*entra.Error](second); !ok || !e.Has(700027) {
		t.Error("what Entra said is lost")
	}
}

// A forced refresh notices a certificate that was registered or replaced meanwhile.
func TestARequestPastTheCacheIsNotAnsweredWithARememberedRefusal(t *testing.T) {
	for name, said := range map[string]reply{
		"a certificate that was not registered": refusal(401, "invalid_client", 700027),
		"an unknown resource":                   refusal(400, "invalid_resource", 500011),
		"mutual TLS that was not enabled":       refusal(412, "unauthorized_client", 51000),
	} {
		t.Run(name, func(t *testing.T) {
			w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
			w.addKey("app")
			w.plays(func(int, seenRequest) reply { return said })
			if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
				t.Fatal("got a token")
			}
			w.plays(always) // the fault has passed
			if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
				t.Error("the refusal was not remembered")
			}
			if _, err := w.get(acquire.Request{Identity: "app", ForceRefresh: true}); err != nil {
				t.Errorf("past the cache: got %v", err)
			}
		})
	}
}

// A token of a weaker credential does not outlive its cause by its whole life: the better
// credential is tried again.
func TestATokenOfAFallbackIsFetchedAnewSoon(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundPrefer))
	w.addKey("app")
	w.plays(rejects("mtls", refusal(400, "invalid_request", 51000)))
	first := w.mustGet(acquire.Request{Identity: "app"})
	if due := first.RefreshOn.Sub(first.NotBefore); !first.Fallback || due > 30*time.Minute || due < 20*time.Minute {
		t.Errorf("got fallback %v, due after %v", first.Fallback, due)
	}
	if again := w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"}); !again.Fallback {
		t.Errorf("got %+v", again)
	}
	w.plays(always)
	if bound := w.mustGet(acquire.Request{Identity: "app", ForceRefresh: true}); bound.Fallback || bound.RefreshOn.Sub(bound.NotBefore) < 28*time.Minute {
		t.Errorf("got fallback %v, due after %v", bound.Fallback, bound.RefreshOn.Sub(bound.NotBefore))
	}
}

func TestARequestPastTheCacheTriesRestingEntries(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundPrefer))
	w.addKey("app")
	w.plays(rejects("mtls", refusal(400, "invalid_request", 51000)))
	if got := w.mustGet(acquire.Request{Identity: "app"}); got.Bound {
		t.Fatalf("got %+v", got)
	}
	w.plays(always) // the fault has passed
	if got := w.mustGet(acquire.Request{Identity: "app", ForceRefresh: true}); !got.Bound || got.Fallback {
		t.Errorf("got bound %v, fallback %v", got.Bound, got.Fallback)
	}
}

func TestAnEntryThatWasPassedOverRests(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire))
	w.addKey("app")
	seen := w.plays(rejects("cert", refusal(401, "invalid_client", 700027)))
	w.mustGet(acquire.Request{Identity: "app"})
	again := w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"})
	if !again.Fallback || again.Credential != "mi" || len(*seen) != 4 {
		t.Errorf("got %q, fallback %v after %v; want the rejected entry left alone for a while, and it said so", again.Credential, again.Fallback, described(*seen))
	}
	w.advance(6 * time.Minute)
	w.plays(always)
	if back := w.mustGet(acquire.Request{Identity: "app", Resource: "https://third"}); back.Fallback || back.Credential != "cert" {
		t.Errorf("got %q, fallback %v; want the first entry again after its rest", back.Credential, back.Fallback)
	}
	if !strings.Contains(w.log.String(), "a credential was passed over") {
		t.Error("the log does not say that a credential was passed over")
	}
}

// An entry that is too weak for one identity serves another one all the same.
func TestTheFloorOfOneIdentityRestsNobodysEntries(t *testing.T) {
	inner := application("inner", managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire))
	outer := application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "inner"},
		acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: "/nowhere"})
	outer.MinStrength = acquire.StrengthAttested
	w := newWorldWith(t, acquire.StrengthTPM, outer, inner)
	w.addKey("app")
	w.rotate("", "unattested", false)
	w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); !isKind(err, acquire.KindRefused) {
		t.Errorf("got %v", err)
	}
	if got := w.mustGet(acquire.Request{Identity: "inner"}); got.Fallback || got.Credential != "mi" {
		t.Errorf("got %q, fallback %v; want the entry that is good enough for this identity", got.Credential, got.Fallback)
	}
}
