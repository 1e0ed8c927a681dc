package acquire

import (
	"errors"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/errinfo"
	"github.com/keyagent/keyagent/tlsbridge"
)

// verdict is all that an error means: for the entry whose attempt it ended, for the list that the
// entry is in, and for the caller. It is made once, where the error enters this package, and is
// carried by an [attemptError]. The zero value is that of no error.
type verdict struct {
	// For the list: whether another entry, or a weaker form, may be tried.
	licence
	row string // of the table in licence.go; "" if none fits, or the error is made of others

	// For the caller: kind, hint, pause and claims challenge.
	explanation

	// For the entry: what a second request may change.
	reaction entra.Reaction
	replace  binding.Reason // what of a binding certificate is suspected; "": another certificate changes nothing
	repair   bool           // an assertion that is obtained now, with its certificate, may be taken

	notPresented bool // Entra has not seen the credential, or only as the issuer of its assertion
	temporary    bool // Entra said so for now only, or was not reached
	local        bool // this machine itself refuses for good, before any request
	costsNothing bool // no request left this machine, so that asking again at once costs nothing
	tooWeak      bool // the credential is weaker than an identity demands
	noPoP        bool // nothing of the identity is bound, and so no bound token can be had
	ofResource   bool // Entra takes no bound form for this resource
	byEntra      bool // Entra answered
	certificate  bool // the refusal is about the certificate that was shown or signed with
	composed     bool // the error is made of others, and so has no row of its own

	// For the identity: another resource or token type may be given where this one was not.
	refusesRequest     bool // Entra took the credential and refused the rest, or nothing is bound
	imdsRefusesRequest bool // IMDS refused what was asked for
}

// rest is how long an entry is passed over that failed so while another one works.
func (v verdict) rest() time.Duration {
	switch {
	case v.tooWeak, v.ofResource: // for another identity's floor, or another resource, it may do
		return 0
	case v.weaker:
		return rejectedRest
	}
	return missingRest
}

// hintsAtRequest reports whether the caller, not the operator, can do something about the error:
// ask for something else.
func (v verdict) hintsAtRequest() bool {
	return v.kind == KindInvalidResource || v.claims != "" || v.noPoP || v.ofResource
}

// unpresented is the verdict where the credential was not shown to Entra: the next entry may always
// be tried, and that costs none of the rejections that a request may have.
func (v verdict) unpresented() verdict {
	if v.row == "" && !v.composed {
		v.row = rowNotLoaded
	}
	v.next, v.once, v.notPresented = true, false, true
	v.refusesRequest = false
	v.costsNothing = v.costsNothing || v.local
	return v
}

// attemptError is an error of an attempt with its verdict.
type attemptError struct {
	err     error
	verdict verdict
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

// withVerdict adds the verdict to an error that does not carry one.
func withVerdict(err error) error {
	if _, has := carried(err); err == nil || has {
		return err
	}
	return &attemptError{err, verdictOf(err)}
}

// notLoaded says that a credential was not there to be presented, if err is not nil.
func notLoaded(err error) error {
	if err == nil {
		return nil
	}
	v := verdictOf(err)
	if v.notPresented {
		return err
	}
	return &attemptError{err, v.unpresented()}
}

// noAssertion says what kept the first request of an exchange from giving an assertion. What Entra
// says there for now only, or what did not reach it, is no more a matter of the credential than in
// the second request.
func noAssertion(err error) error {
	if verdictOf(err).temporary {
		return withVerdict(err)
	}
	return notLoaded(err)
}

// carried returns the verdict that an error, or the one that it wraps, was given. Verdicts inside
// an error that wraps several are about each of those, not about the whole.
func carried(err error) (verdict, bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		if e, ok := err.(*attemptError); ok { //nolint:errorlint // errors.As would look into lists, too
			return e.verdict, true
		}
	}
	return verdict{}, false
}

// verdictOf returns the verdict that an error carries, or else makes it.
func verdictOf(err error) verdict {
	if err == nil {
		return verdict{}
	}
	if v, ok := carried(err); ok {
		return v
	}
	if list, ok := errors.AsType[*ChainError](err); ok {
		return verdictOfList(list)
	}
	f := factsOf(err)
	v := f.verdict()
	if e, ok := errors.AsType[*notReplaced](err); ok {
		return e.verdict(v)
	}
	v.row, v.licence = f.licence()
	return v
}

// verdictOfList is the verdict on the list of an identity as a whole. It allows what each of its
// attempts does: one entry's refusal must not hide that another one was only disturbed. To the
// caller it is the attempt that gives the most hope, since the next request tries them all again.
func verdictOfList(list *ChainError) verdict {
	all := verdict{composed: true, costsNothing: true}
	all.next, all.weaker = true, true
	for i, attempt := range list.Attempts {
		one := verdictOf(attempt.Err)
		all.next, all.weaker = all.next && one.next, all.weaker && one.weaker
		all.costsNothing = all.costsNothing && one.costsNothing
		all.temporary, all.tooWeak = all.temporary || one.temporary, all.tooWeak || one.tooWeak
		if one.byEntra && !all.byEntra { // the first answer of Entra speaks for the list
			all.byEntra, all.reaction, all.ofResource = true, one.reaction, one.ofResource
		}
		if i == 0 || one.hope() > all.hope() {
			all.explanation = one.explanation
		}
		all.noPoP = all.noPoP || one.noPoP
		// One credential that was accepted is enough for another request.
		all.refusesRequest = all.refusesRequest || one.refusesRequest
		all.imdsRefusesRequest = all.imdsRefusesRequest || one.imdsRefusesRequest
	}
	return all
}

// verdict is the verdict when a certificate was rejected and no other one was obtained: as a rule
// another one may do, and the caller is told what keeps it away.
func (e *notReplaced) verdict(v verdict) verdict {
	v.composed = true
	v.licence = licence{next: true, weaker: e.rejectsAll()}
	if !v.weaker {
		v.explanation = verdictOf(e.err).explanation
	}
	return v
}

// facts are the properties of an error and of all that it wraps. They are looked up once, and
// everything that is decided is decided by them.
type facts struct {
	err       error
	fromEntra *entra.Error // nil where Entra gave no answer that says no; so for the others
	fromIMDS  *imds.Error
	paused    *binding.PausedError
	untrusted *tlsbridge.UntrustedError

	reaction    entra.Reaction
	attestation bool // it arose while a key was attested
	tooWeak     bool
	refuses     bool // it says of itself that asking again changes nothing

	alert   bool // an alert of TLS about the certificate that was shown
	proven  bool // ... by a server that had proven its identity
	expired bool // ... that calls the certificate expired
}

func factsOf(err error) facts {
	f := facts{
		err:         err,
		reaction:    entra.ReactionTo(err),
		attestation: errors.Is(err, binding.ErrAttestation),
		refuses:     errinfo.Refuses(err),
		alert:       tlsbridge.CertificateRefused(err),
		proven:      tlsbridge.RefusalProven(err),
		expired:     tlsbridge.CalledExpired(err),
	}
	f.fromEntra, _ = errors.AsType[*entra.Error](err)
	f.fromIMDS, _ = errors.AsType[*imds.Error](err)
	f.paused, _ = errors.AsType[*binding.PausedError](err)
	f.untrusted, _ = errors.AsType[*tlsbridge.UntrustedError](err)
	_, f.tooWeak = errors.AsType[*floorError](err)
	return f
}

// verdict derives a verdict from the facts, except for the columns of the table in licence.go.
func (f facts) verdict() verdict {
	v := verdict{
		explanation: explain(f),
		reaction:    f.reaction,
		replace:     f.suspected(),
		byEntra:     f.fromEntra != nil,
		tooWeak:     f.tooWeak,
		noPoP:       errors.Is(f.err, errNoPoP),
		ofResource:  f.reaction == entra.ReactionUnboundResource,
		certificate: f.alert || f.fromEntra != nil && f.fromEntra.BlamesCertificate(),
		local:       f.refuses && !f.tooWeak && !f.attestation && f.fromEntra == nil && f.fromIMDS == nil,
	}
	v.refusesRequest = v.noPoP
	if f.fromEntra != nil {
		v.refusesRequest = f.fromEntra.RefusesRequest()
	}
	v.imdsRefusesRequest = f.fromIMDS != nil && f.fromIMDS.RefusesRequest()
	v.repair = v.replace != "" || f.hasReaction(entra.ReactionPair, entra.ReactionRebuildAssertion)
	v.temporary = f.fromEntra != nil && f.fromEntra.Temporary() ||
		errors.Is(f.err, entra.ErrUnreachable) || errors.Is(f.err, entra.ErrBadAnswer)
	return v
}

// suspected is which foundation of a binding certificate is suspected where another certificate may
// be taken in its place; "" where it makes no difference.
func (f facts) suspected() binding.Reason {
	switch {
	case f.proven:
		return binding.ReasonCertificate
	case f.alert: // before TLS 1.3, a server's own refusal looks the same as one by a machine in between
		return binding.ReasonDoubt
	case f.hasReaction(entra.ReactionReattest):
		return binding.ReasonAttestation
	case f.hasReaction(entra.ReactionReissue, entra.ReactionCertificate):
		return binding.ReasonCertificate
	}
	return ""
}

func (f facts) hasReaction(list ...entra.Reaction) bool { return slices.Contains(list, f.reaction) }
