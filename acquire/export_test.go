package acquire

import (
	"context"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

// Classify and the end of all flights cannot be seen from outside.
func Classify(identity string, err error) *Error { return verdictOf(err).asError(identity, err) }

// WaitFlight returns once no flight for the token is under way: it joins the one
// that is, or makes one that does nothing.
func WaitFlight(a *Acquirer, identity, resource string) {
	key := cacheKey{identity: identity, resource: resource, tokenType: TypeBearer, meaning: a.roster.Load().byName[identity].meaning}
	call, _ := a.flights.Start(key.String(), func() error { return nil }, func() (Token, error) { return Token{}, nil })
	_, _ = call.Wait(context.Background())
}

// OwnerOf returns the object id and the resource id that a token says.
func OwnerOf(token, clientID string) (objectID, resourceID string) {
	found := ownerOf(secret.New(token), clientID)
	return found.objectID, found.resourceID
}

// Reaches is the order of the strengths.
func Reaches(have, floor Strength) bool { return have.reaches(floor) }

// Licence is a row of the table of what errors license.
type Licence struct {
	Row, When          string
	Next, Weaker, Once bool
}

// Licences is the table.
func Licences() []Licence {
	var list []Licence
	for _, row := range licences() {
		list = append(list, Licence{row.name, row.when, row.next, row.weaker, row.once})
	}
	return list
}

// LicenceOf is what an error licenses; the row is empty where none fits, and for the errors that
// are made of others.
func LicenceOf(err error) Licence {
	v := verdictOf(err)
	return Licence{Row: v.row, Next: v.next, Weaker: v.weaker, Once: v.once}
}

// Verdict is everything that an error means, in one line.
func Verdict(err error) string {
	v := verdictOf(err)
	return fmt.Sprintf("row=%q next=%v weaker=%v once=%v kind=%s after=%v claims=%q request=%v asked=%v/%v local=%v passing=%v rest=%v replace=%q/%v pair=%v hint=%q",
		v.row, v.next, v.weaker, v.once, v.kind, v.retryAfter, v.claims, v.hintsAtRequest(), v.refusesRequest, v.imdsRefusesRequest, v.costsNothing, v.temporary, v.rest(), v.replace, v.replace != "", v.repair, v.hint)
}

// NotLoaded, TooWeak, NotReplaced and Remembered are errors that only an attempt makes.
func NotLoaded(err error) error              { return notLoaded(err) }
func TooWeak(have, want Strength) error      { return &floorError{have, want} }
func NotReplaced(rejection, err error) error { return &notReplaced{rejection, err} }
func Remembered(err error) error             { return &remembered{err, 0} }

// The sentinels of this package.
var (
	ErrNoPoP        = errNoPoP
	ErrClosed       = errClosed
	ErrPanic        = errPanic
	ErrCrowded      = errCrowded
	ErrRetired      = errRetired
	ErrForceRefresh = errForceRefresh
)

// Unable reports whether a flight that ended with err says that the identity cannot give tokens.
func Unable(of Identity, err error) bool {
	s := identityState{Identity: of}
	s.note(err, s.ofRequest(verdictOf(err)), time.Now())
	return s.unable != nil
}

// Build makes the list of an identity's credentials without checking the identity.
func Build(id Identity) error {
	roster := &Roster{byName: map[string]*identityState{}, bound: map[imds.Selector]*boundIdentity{}}
	b := &builder{cfg: &Config{}, before: roster, roster: roster}
	_, err := b.newChain(id)
	return err
}
