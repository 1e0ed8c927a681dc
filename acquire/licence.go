package acquire

import (
	"errors"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/errinfo"
)

// licence is what the error that ended an attempt allows. The zero value allows nothing: the
// request as a whole has failed.
type licence struct {
	next   bool // the next entry of the list may be tried
	weaker bool // an unbound entry may be tried, and the unbound form of this one where bound: prefer says so
	once   bool // next, but only once in a request: Entra has seen and rejected a credential
}

// rowNotLoaded is the row of errors that are marked by [notLoaded]: no property of the error
// itself.
const rowNotLoaded = "not-loaded"

// licenceRow is one row of the table of what errors allow.
type licenceRow struct {
	name string // for tests and the documentation
	when string // for the documentation: how an attempt ended
	is   func(facts) bool
	licence
}

// licences is the table. The first row that matches decides. It is the only place that allows a
// weaker credential, and each row that does so is a definite refusal of the bound form by the other
// side: nothing that this machine finds out by itself, nothing that may pass, and nothing that a
// machine in between could send. An error that matches no row allows nothing.
//
// docs/credentials.md repeats it, and a test compares.
func licences() []licenceRow {
	return []licenceRow{
		{
			"bound-form", "Entra takes no bound form here: not of this application (AADSTS51000), not by a certificate that is merely uploaded (392189), not for this resource (392196), not in this tenant (3921996)",
			facts.refusesBoundForm, licence{weaker: true},
		},
		{
			"time", "Entra says that something is outside its time: assertion (AADSTS700024), certificate (1000502, 1000901), " +
				"attestation (1000610). This machine's clock may be the cause",
			facts.blamesTime, licence{next: true, once: true},
		},
		{
			"rejected", "Entra rejects the credential itself (AADSTS700027, 7000274, 7000214, 7000277, 500181, 1000611 to 1000614, " +
				"`invalid_client` without a code, or an alert in TLS 1.3 after Entra has proven who it is), and, where the platform issues the certificate, a new one as well",
			facts.rejectsCredential, licence{next: true, weaker: true, once: true},
		},
		{
			"no-msi-v2", "IMDS itself answers 404 at getplatformmetadata, or the operator has switched MSI v2 off",
			func(f facts) bool { return errors.Is(f.err, imds.ErrNotSupported) }, licence{next: true, weaker: true},
		},
		{
			"issuer", "IMDS itself refuses to issue a certificate (400 at issuecredential), also on an attestation that was made for it",
			facts.refusesIssuance, licence{next: true, weaker: true},
		},
		{
			"evidence", "the attestation service refuses this VM's evidence (400), after the agent itself has found it good",
			facts.refusesEvidence, licence{next: true, weaker: true},
		},
		{
			"floor", "its strength is below `min_strength`; it was shown to nobody",
			func(f facts) bool { return f.tooWeak }, licence{next: true},
		},
		{
			rowNotLoaded, "anything else keeps the credential from being presented: no key, no certificate, an expired one; the TPM; " +
				"attestation; IMDS not reached, throttling, or answering otherwise; no assertion",
			nil, licence{next: true},
		},
	}
}

// licence looks an error up in the table.
func (f facts) licence() (row string, allowed licence) {
	for _, row := range licences() {
		if row.is != nil && row.is(f) {
			return row.name, row.licence
		}
	}
	return "", licence{}
}

// CannotBeBound reports whether the other side has definitely refused to accept, or to issue, the
// bound form of a credential.
func CannotBeBound(err error) bool { return verdictOf(err).weaker }

func (f facts) refusesBoundForm() bool {
	return f.hasReaction(entra.ReactionFeature, entra.ReactionUnboundResource, entra.ReactionUnboundTenant)
}

// blamesTime reports whether Entra rejected something because of its time: the clocks of Entra and
// of this machine may differ.
func (f facts) blamesTime() bool {
	return f.rejectsCredential() && (f.fromEntra != nil && f.fromEntra.BlamesTime() || f.expired)
}

// rejectsCredential reports whether Entra has rejected the credential itself. An alert that a
// machine in between can have sent does not count: it may cause another certificate to be tried,
// not another credential.
func (f facts) rejectsCredential() bool {
	return f.proven || f.hasReaction(
		entra.ReactionReattest, entra.ReactionReissue, entra.ReactionCertificate,
		entra.ReactionPair, entra.ReactionRebuildAssertion, entra.ReactionNextCredential,
	)
}

// refusesIssuance reports whether IMDS refuses to issue a certificate. Its other errors may be
// about one request, or pass.
func (f facts) refusesIssuance() bool { return f.fromIMDS != nil && f.fromIMDS.RefusesIssuance() }

// refusesEvidence reports whether the attestation service itself has refused the evidence. That the
// agent cannot collect its evidence, or finds it wrong, may be the work of another user of the TPM.
func (f facts) refusesEvidence() bool { return f.attestation && errinfo.RefusesEvidence(f.err) }
