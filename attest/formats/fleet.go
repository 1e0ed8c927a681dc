package formats

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/keyagent/keyagent/attest"
)

// Fleet writes one EAR about many attesters, each of which is a submodule with its own status and
// nonce (draft-ietf-rats-ear-04, 3). It keeps nothing of them: they are written as they come, and
// the status of the whole, the worst of all, is the last member. It is for one goroutine.
type Fleet struct {
	w     io.Writer
	of    Appraisal
	n     int
	worst tier
}

// NewFleet begins the document. The appraisal has what all have in common: time, build, policies.
func NewFleet(w io.Writer, of Appraisal) (*Fleet, error) {
	if of.At.IsZero() {
		return nil, errors.New("writing results: no time")
	}
	head, err := json.Marshal(map[string]any{"eat_profile": EARProfile, "iat": of.At.Unix(), "ear_verifier_id": of.verifier()})
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(w, "%s,\"submods\":{", head[:len(head)-1])
	return &Fleet{w: w, of: of, worst: affirming}, err
}

// Add writes one attester. Its label, such as the file's name, must be one that no other has. A
// reason is what stands against it beside its checks: there is no evidence, or it is that of
// another attester. Then, and without a result, nothing is said to be affirmed.
func (f *Fleet) Add(label string, r *attest.Result, nonce []byte, reason string) error {
	one := earAppraisal{Status: contraindicated, PolicyIDs: f.of.PolicyIDs, Nonce: b64(nonce)}
	if r != nil {
		a := f.of
		a.Result, a.Nonce = r, nonce
		one = a.ear().Submods[Label]
	} else {
		one.VerifierClaims = verifierClaims{Verdict: attest.Incomplete, Checks: []attest.Check{}}
	}
	if reason != "" || r == nil {
		one.Status, one.AttesterClaims, one.VerifierClaims.Reason = contraindicated, nil, reason
	}
	f.worst = worse(f.worst, one.Status)
	if !utf8.ValidString(label) { // else two of them could become the same
		label = strconv.QuoteToASCII(label)
	}
	name, err := json.Marshal(label)
	if err != nil {
		return err
	}
	text, err := json.Marshal(one)
	if err != nil {
		return err
	}
	separator := ","
	if f.n == 0 {
		separator = ""
	}
	f.n++
	_, err = fmt.Fprintf(f.w, "%s\n%s:%s", separator, name, text)
	return err
}

// End writes the status of the whole, which is contraindicated if there was no attester.
func (f *Fleet) End() error {
	if f.n == 0 {
		f.worst = contraindicated
	}
	_, err := fmt.Fprintf(f.w, "\n},\"ear_status\":%q}\n", string(f.worst))
	return err
}

// worse returns the worse of two tiers; one without a claim is worse than one that affirms.
func worse(a, b tier) tier {
	order := []tier{affirming, none, warning, contraindicated}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}
