package forms

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/config"
)

// untried, obtained and failed are a form of a credential whose last attempt ended so.
func untried(application bool, source acquire.Source, bound bool) way {
	return way{application, acquire.CredentialStatus{Source: source, Bound: bound}}
}

func obtained(w way, strength acquire.Strength) way {
	w.Tried, w.Strength = true, strength
	return w
}

func failed(w way, err error) way {
	w.Tried, w.LastError = true, err
	return w
}

func entraSaid(status int, codes ...int) error {
	return fmt.Errorf("the token request: %w", &entra.Error{Status: status, Code: "invalid_request", Codes: codes})
}

// What is said of each form, from what is known of the machine and from how the last attempts
// ended.
func TestWhichFormsWork(t *testing.T) {
	var (
		signed   = untried(true, acquire.SourceCertificate, false)
		shown    = untried(true, acquire.SourceCertificate, true)
		vm       = untried(false, acquire.SourceManagedIdentity, true)
		plain    = untried(false, acquire.SourceManagedIdentity, false)
		fed      = untried(true, acquire.SourceManagedIdentity, true)
		other    = untried(true, acquire.SourceOIDC, true)
		file     = untried(true, acquire.SourceAssertionFile, false)
		evidence = fmt.Errorf("%w: %w", binding.ErrAttestation, &maa.Error{Status: 400})
	)
	both := imds.Support{V1: imds.Present, V2: imds.Present}
	confidential := func(ways ...way) *Survey {
		return &Survey{ways: ways, Keys: true, Key: acquire.StrengthTPM, Attests: true, Host: both, WhyHost: "IMDS is silent", Untried: "untried"}
	}
	with := func(s *Survey, change func(*Survey)) *Survey { change(s); return s }
	software := func(s *Survey) { s.Keys, s.Key, s.Attests = false, acquire.StrengthSoftware, false }
	unattested := func(s *Survey) { s.Attests = false }
	noHost := func(s *Survey) { s.Host = imds.Support{V1: imds.Absent, V2: imds.Absent} }
	noTPM := func(s *Survey) { s.Keys, s.Key = false, "" }
	silent := func(s *Survey) { s.Host = imds.Support{} }
	for _, tt := range []struct {
		name  string
		known *Survey
		form  string
		want  string // verdict, strength, and a part of the reason
	}{
		{"signed: a TPM is enough", confidential(), "certificate-signed", "yes tpm-signed registered"},
		{"signed: no TPM", with(confidential(), software), "certificate-signed", "no none none is used"},
		{"signed: obtained", confidential(obtained(signed, acquire.StrengthTPMSigned)), "certificate-signed", "yes tpm-signed was obtained"},
		{"signed: not registered", confidential(failed(signed, entraSaid(401, entra.CodeAssertionSignature))), "certificate-signed", "no none rejected"},
		{"signed: an outage", confidential(failed(signed, entraSaid(503))), "certificate-signed", "yes tpm-signed registered"},
		{"signed: an unknown resource", confidential(failed(signed, entraSaid(400, entra.CodeInvalidResource))), "certificate-signed", "yes tpm-signed registered"},
		{"signed: the bound form says nothing of it", confidential(failed(shown, entraSaid(412, entra.CodeFeatureDisabled))), "certificate-signed", "yes tpm-signed registered"},

		{"mutual TLS: nobody uses it", confidential(), "certificate-mtls", "not known yet tpm nothing is configured so"},
		{"mutual TLS: nobody has asked", confidential(shown), "certificate-mtls", "not known yet tpm untried"},
		{"mutual TLS: no TPM", with(confidential(), software), "certificate-mtls", "no none none is used"},
		{"mutual TLS: obtained", confidential(obtained(shown, acquire.StrengthTPM)), "certificate-mtls", "yes tpm was obtained"},
		{"mutual TLS: obtained, and an outage since", confidential(failed(obtained(shown, acquire.StrengthTPM), entraSaid(503))), "certificate-mtls", "yes tpm was obtained"},
		{"mutual TLS: obtained, and refused since", confidential(failed(obtained(shown, acquire.StrengthTPM), entraSaid(412, entra.CodeFeatureDisabled))), "certificate-mtls", "no none not enabled"},
		{"mutual TLS: refused to one and given to another", confidential(failed(shown, entraSaid(412, entra.CodeFeatureDisabled)), obtained(shown, acquire.StrengthTPM)), "certificate-mtls", "yes tpm was obtained"},
		{"mutual TLS: not trusted by subject name and issuer", confidential(failed(shown, entraSaid(400, entra.CodeCertificateTrust))), "certificate-mtls", "no none subject name and issuer"},
		{"mutual TLS: not in this tenant", confidential(failed(shown, entraSaid(400, entra.CodeBoundUnsupportedByTenant))), "certificate-mtls", "no none tenant"},
		{"mutual TLS: not for one resource", confidential(failed(shown, entraSaid(400, entra.CodeBoundUnsupportedByResource))), "certificate-mtls", "not known yet tpm untried"},
		{"mutual TLS: not registered", confidential(failed(shown, entraSaid(401, entra.CodeCertificateUnknown))), "certificate-mtls", "no none rejected"},
		{"mutual TLS: throttling that speaks of it", confidential(failed(shown, entraSaid(429, entra.CodeFeatureDisabled))), "certificate-mtls", "not known yet tpm untried"},
		{"mutual TLS: a wrong time", confidential(failed(shown, entraSaid(401, entra.CodeCertificateInvalid))), "certificate-mtls", "not known yet tpm untried"},
		{"mutual TLS: nobody there", confidential(failed(shown, entra.ErrUnreachable)), "certificate-mtls", "not known yet tpm untried"},

		{"v1: offered", confidential(), "managed-identity-v1", "yes none bound to nothing"},
		{"v1: not offered", with(confidential(), noHost), "managed-identity-v1", "no none bound to nothing"},
		{"v1: IMDS is silent", with(confidential(), silent), "managed-identity-v1", "not known yet none IMDS is silent"},
		{"v1: IMDS is silent now", with(confidential(obtained(plain, acquire.StrengthNone)), silent), "managed-identity-v1", "yes none was obtained"},
		{"v1, federated: offered", confidential(), "federated-v1", "yes none bound to nothing"},
		{"v1, federated: another form of it was obtained", with(confidential(obtained(plain, acquire.StrengthNone)), silent), "federated-v1", "not known yet none IMDS is silent"},

		{"attested: issued", with(confidential(vm), func(s *Survey) { s.issued = []acquire.Strength{acquire.StrengthTPM, acquire.StrengthAttested} }), "managed-identity-v2-attested", "yes attested was issued on attestation"},
		{"attested: offered", confidential(vm), "managed-identity-v2-attested", "not known yet attested offers"},
		{"attested: not offered", with(confidential(vm), noHost), "managed-identity-v2-attested", "no none offers no binding certificates"},
		{"attested: IMDS is silent", with(confidential(vm), silent), "managed-identity-v2-attested", "not known yet attested IMDS is silent"},
		{"attested: refused", with(confidential(vm), func(s *Survey) { s.refusedV2 = "refused" }), "managed-identity-v2-attested", "no none refused"},
		{"attested: switched off", with(confidential(vm), unattested), "managed-identity-v2-attested", "no none switched off"},
		{"attested: a key in software", with(confidential(vm), software), "managed-identity-v2-attested", "no none in software"},

		{"not attested: issued", with(confidential(vm), func(s *Survey) { s.issued = []acquire.Strength{acquire.StrengthTPM} }), "managed-identity-v2", "yes tpm without attestation"},
		{"not attested: all are asked for with attestation", confidential(vm), "managed-identity-v2", "not known yet tpm with attestation"},
		{"not attested: refused with attestation", with(confidential(vm), func(s *Survey) { s.refusedV2 = "refused" }), "managed-identity-v2", "not known yet tpm with attestation"},
		{"not attested: refused", with(with(confidential(vm), unattested), func(s *Survey) { s.refusedV2 = "refused" }), "managed-identity-v2", "no none refused"},
		{"not attested: not offered", with(confidential(vm), noHost), "managed-identity-v2", "no none offers no binding certificates"},
		{"not attested: offered", with(confidential(vm), unattested), "managed-identity-v2", "not known yet tpm offers"},
		{"not attested: IMDS is silent", with(with(confidential(vm), unattested), silent), "managed-identity-v2", "not known yet tpm IMDS is silent"},
		{"not attested: a key in software", with(confidential(vm), software), "managed-identity-v2", "not known yet software offers"},

		{"not attested: no TPM", with(confidential(vm), noTPM), "managed-identity-v2", "no none none can be used"},
		{"attested: no TPM", with(confidential(vm), noTPM), "managed-identity-v2-attested", "no none none can be used"},
		{"federated: no TPM", with(confidential(fed), noTPM), "federated-v2", "no none none can be used"},
		{"federated: obtained", confidential(obtained(fed, acquire.StrengthAttested)), "federated-v2", "yes attested was obtained"},
		{"federated: nobody has asked", confidential(fed), "federated-v2", "not known yet tpm untried"},
		{"federated: the host has no certificates", with(confidential(fed), noHost), "federated-v2", "no none offers no binding certificates"},
		{"federated: the evidence was refused", confidential(failed(fed, evidence)), "federated-v2", "no none evidence"},
		{"federated: Entra has it not enabled", confidential(failed(fed, entraSaid(412, entra.CodeFeatureDisabled))), "federated-v2", "no none not enabled"},
		{"federated: the agent's own failure", confidential(failed(fed, errors.New("no TPM"))), "federated-v2", "not known yet tpm untried"},

		{"another identity: obtained", confidential(obtained(other, acquire.StrengthTPM)), "other-identity", "yes tpm was obtained"},
		{"another identity: not configured", confidential(), "other-identity", "not known yet  nothing is configured so"},
		{"another identity: refused", confidential(failed(other, entraSaid(412, entra.CodeFeatureDisabled))), "other-identity", "no none not enabled"},
		{"file: nothing is needed", with(confidential(), software), "assertion-file", "yes none nothing of this machine"},
		{"file: rejected", confidential(failed(file, entraSaid(401, entra.CodeAssertionSignature))), "assertion-file", "no none rejected"},
		{"file: obtained", confidential(obtained(file, acquire.StrengthNone)), "assertion-file", "yes none was obtained"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, f := range tt.known.Forms() {
				got := f.Reached() + " " + f.Strength + " "
				if f.Name != tt.form {
					continue
				}
				if at := len(got); len(tt.want) < at || tt.want[:at] != got || !strings.Contains(f.Reason, tt.want[at:]) {
					t.Errorf("got %q, want %q", got+f.Reason, tt.want)
				}
				return
			}
			t.Errorf("nothing is said of %s", tt.form)
		})
	}
}

// Every form of every credential that can be configured is a row, and but for attestation one
// alone.
func TestEveryFormIsInTheList(t *testing.T) {
	rows := map[string]bool{}
	covered := func(w way) {
		var found []string
		for _, form := range All() {
			if form.uses(w) {
				found = append(found, form.Name)
				rows[form.Name] = true
			}
		}
		if v2 := !w.application && w.Bound; len(found) == 0 || len(found) > 1 && !v2 || len(found) > 2 {
			t.Errorf("%+v is in the rows %q", w, found)
		}
	}
	for _, bound := range []string{config.BoundRequire, config.BoundPrefer, config.BoundNever} {
		identities := []config.Identity{{ManagedIdentity: &config.ManagedIdentity{Bound: bound}}}
		for _, source := range []string{config.SourceCertificate, config.SourceManagedIdentity, config.SourceOIDC, config.SourceAssertionFile} {
			if source == config.SourceAssertionFile && bound != config.BoundNever {
				continue
			}
			identities = append(identities, config.Identity{Application: &config.Application{Credentials: []config.Credential{{Source: source, Bound: bound}}}})
		}
		for _, w := range waysOf(identities) {
			covered(w)
		}
	}
	for _, form := range All() {
		if !rows[form.Name] {
			t.Errorf("no credential is a %s", form.Name)
		}
	}
	if names := waysOf([]config.Identity{{ManagedIdentity: &config.ManagedIdentity{Bound: config.BoundPrefer}}}); !slices.EqualFunc(names, []bool{true, false}, func(w way, bound bool) bool { return w.Bound == bound }) {
		t.Errorf("what prefers to be bound has the forms %+v", names)
	}
}
