package acquire

import (
	"context"

	"github.com/keyagent/keyagent/internal/secret"
)

// Classify and the end of all flights cannot be seen from outside.
var Classify = classify

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

// LicenceOf is what an error licenses; the row is empty where none fits, and for the errors that are made of others.
func LicenceOf(err error) Licence {
	found := licenceOf(err)
	l := Licence{Next: found.next, Weaker: found.weaker, Once: found.once}
	if is[*ChainError](err) || is[*notReplaced](err) {
		return l
	}
	for _, row := range licences() {
		if row.is(err) {
			l.Row = row.name
			break
		}
	}
	return l
}

// NotLoaded, TooWeak, NotReplaced and Remembered are errors that only an attempt makes.
func NotLoaded(err error) error              { return notLoaded(err) }
func TooWeak(have, want Strength) error      { return &floorError{have, want} }
func NotReplaced(rejection, err error) error { return &notReplaced{rejection, err} }
func Remembered(err error) error             { return &remembered{err, 0} }

// The sentinels of this package.
var (
	ErrNoPoP   = errNoPoP
	ErrClosed  = errClosed
	ErrPanic   = errPanic
	ErrCrowded = errCrowded
	ErrRetired = errRetired
	ErrForced  = errForced
)
