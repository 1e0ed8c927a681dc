package forms

import (
	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// Form is a form of a credential, and where it works: a row of the table "What works today" in
// README.md and docs/credentials.md, and of what capabilities and doctor say.
type Form struct {
	Name          string // of the row
	What          string // the credential shown to Entra
	Configuration string // how it is written
	Works         string // where it works
	Strength      string // of its tokens
	RestsOn       string // the evidence for that

	uses    func(way) bool                                      // this form of a configured credential is it
	reached func(s *Survey, form *Form) (known wire.Capability) // here, as far as it is known
}

// The evidence for the statement that a form works.
const (
	restsOnDocumentation = "Microsoft's documentation"
	restsOnClients       = "the simulator only, after Microsoft's clients" // whose sources and tests are public
	restsOnSimulator     = "the simulator only"                            // whether Azure issues such certificates for a Linux vTPM is not documented
)

// All lists the forms, the one that is easiest to set up first. docs/credentials.md and README.md
// repeat the list, and a test compares.
func All() []Form {
	return []Form{
		{
			"certificate-signed", "an assertion, signed in the TPM", "`source: certificate`, `bound: never`",
			"any machine with a TPM, any tenant", "`tpm-signed`", restsOnDocumentation,
			usedBy(true, acquire.SourceCertificate, false), (*Survey).certificateSigned,
		},
		{
			"managed-identity-v1", "nothing by the agent: IMDS gets the token", "`managed_identity: {bound: never}`",
			"any Azure VM with a managed identity; the agent's rules hold for what goes through the agent", "`none`", restsOnDocumentation,
			usedBy(false, acquire.SourceManagedIdentity, false), (*Survey).managedIdentityV1,
		},
		{
			"federated-v1", "that token, as an application's assertion", "`source: managed_identity`, `bound: never`",
			"the same, any tenant", "`none`", restsOnDocumentation,
			usedBy(true, acquire.SourceManagedIdentity, false), (*Survey).managedIdentityV1,
		},
		{
			"certificate-mtls", "a certificate over mutual TLS", "`source: certificate`",
			"any machine with a TPM, where the application is enabled for mutual TLS and trusts the certificate by subject name and issuer",
			"`tpm`", restsOnClients,
			usedBy(true, acquire.SourceCertificate, true), (*Survey).certificateMTLS,
		},
		{
			"managed-identity-v2-attested", "a binding certificate, issued on attestation", "`managed_identity: {}`",
			"Confidential VMs whose host offers managed identity v2", "`attested`", restsOnSimulator,
			usedBy(false, acquire.SourceManagedIdentity, true), (*Survey).managedIdentityAttested,
		},
		{
			"managed-identity-v2", "a binding certificate, issued without attestation", "the same, `attestation.provider: none`",
			"VMs with a TPM whose host offers it without attestation", "`tpm`", restsOnSimulator,
			usedBy(false, acquire.SourceManagedIdentity, true), (*Survey).managedIdentityV2,
		},
		{
			"federated-v2", "the managed identity's assertion, bound to its certificate", "`source: managed_identity`",
			"where that certificate is issued and the application's tenant takes it", "that of the certificate", restsOnSimulator,
			usedBy(true, acquire.SourceManagedIdentity, true), (*Survey).federatedV2,
		},
		{
			"other-identity", "another identity's token as the assertion", "`source: oidc`",
			"where the other identity's own form works", "that of the other; `none` with `bound: never`", restsOnClients,
			func(w way) bool { return w.Source == acquire.SourceOIDC }, (*Survey).otherIdentity,
		},
		{
			"assertion-file", "an assertion that another program keeps in a file", "`source: assertion_file`",
			"any machine, any tenant", "`none`", restsOnDocumentation,
			usedBy(true, acquire.SourceAssertionFile, false), (*Survey).assertionFile,
		},
	}
}

func usedBy(application bool, source acquire.Source, bound bool) func(way) bool {
	return func(w way) bool { return w.application == application && w.Source == source && w.Bound == bound }
}

// Forms says which forms work on this machine and in its tenants, as far as that is known.
func (s *Survey) Forms() []wire.Form {
	var list []wire.Form
	for _, form := range All() {
		known := form.reached(s, &form)
		list = append(list, wire.Form{
			Name: form.Name, Configuration: form.configured(), Available: known.Available, Strength: known.Strength, Reason: known.Reason,
		})
	}
	return list
}
