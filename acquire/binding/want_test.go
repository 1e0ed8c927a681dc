package binding_test

import (
	"testing"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

// A certificate that no configuration names any more is not renewed; one that is named again is.
func TestOnlyWantedCertificatesAreRenewed(t *testing.T) {
	other := imds.Selector{ClientID: "8b0c3d0e-0000-4000-8000-0000000000c2"}
	for _, tt := range []struct {
		name   string
		wanted []imds.Selector
		steps  [][]imds.Selector // further ones
		renews bool
	}{
		{"wanted", []imds.Selector{other, system}, nil, true},
		{"gone", []imds.Selector{other}, nil, false},
		{"all gone", nil, nil, false},
		{"gone and back", nil, [][]imds.Selector{{system}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T, w *world) {
				m := w.start()
				m.Want([]imds.Selector{system})
				w.run(t, m)
				first := w.certificate(t, m)
				m.Want(tt.wanted)
				for _, step := range tt.steps {
					m.Want(step)
				}
				passUntil(first.RenewAt())
				if renewed := w.count() == 2; renewed != tt.renews {
					t.Errorf("renewed: %v", renewed)
				}
			})
		})
	}
}

// An identity that is not wanted for a while keeps what protects the issuer: the rejection of its
// certificate, and the pause before the next replacement.
func TestPausesOutliveBeingUnwanted(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		m.Want([]imds.Selector{system})
		w.run(t, m)
		second := w.replace(t, m, w.certificate(t, m))
		m.Want(nil)
		m.Want([]imds.Selector{system})
		_, err := m.Replace(t.Context(), system, second, binding.ReasonCertificate)
		paused(t, w, err, wantPaused(t, m, second).RetryAfter)
		if w.count() != 2 {
			t.Errorf("%d issuances", w.count())
		}
	})
}

// A certificate is used at trusted endpoints only, from the moment on that they change.
func TestTheEndpointOfACertificateMustBeTrusted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts imds.HostList
		used  bool
	}{
		{"all", imds.MicrosoftMTLSHosts(), true},
		{"this one alone", imds.HostList{"centralus.mtlsauth.microsoft.com"}, true},
		{"another one", imds.HostList{"westeurope.mtlsauth.microsoft.com"}, false},
		{"none", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.start()
			first := w.certificate(t, m)
			m.SetMTLSHosts(tt.hosts)
			got, err := m.Certificate(t.Context(), system)
			if tt.used && (got != first || m.Current(system) != first) || !tt.used && (err == nil || m.Current(system) != nil) {
				t.Errorf("got %v, %v", got, err)
			}
			m.SetMTLSHosts(imds.MicrosoftMTLSHosts())
			if got := w.certificate(t, m); got != first {
				t.Error("with all hosts again, it is another one")
			}
		})
	}
}
