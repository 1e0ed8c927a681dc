package acquire

// Classify and the end of all flights cannot be seen from outside.
var Classify = classify

// WaitFlight returns once no flight for the token is under way: it joins the one
// that is, or makes one that does nothing.
func WaitFlight(a *Acquirer, identity, resource string) {
	key := cacheKey{identity: identity, resource: resource, tokenType: TypeBearer}
	landing, _ := a.flights.join(key.String(), func() error { return nil }, func() (Token, error) { return Token{}, nil })
	<-landing.done
}
