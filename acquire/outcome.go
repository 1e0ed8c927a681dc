package acquire

import "time"

// entryOf makes a cache entry of a credential's result: the token, and the facts that decide how
// long it is kept.
func (a *Acquirer) entryOf(f flight, g *grant, by *step, asked time.Time) cacheEntry {
	now := asked.Round(0) // an expiry is a time of the wall clock
	token := Token{
		AccessToken: g.answer.AccessToken,
		TokenType:   g.answer.TokenType,
		NotBefore:   now,
		ExpiresOn:   now.Add(g.answer.ExpiresIn),
		RefreshOn:   a.refreshOn(now, g),
		Resource:    f.key.resource,
		Identity:    f.id.Name,
		ClientID:    g.clientID,
		Credential:  by.entry,
		Bound:       by.bound,
		Strength:    g.strength,
		Fallback:    g.passed,
	}
	named := ownerOf(token.AccessToken, token.ClientID)
	token.ObjectID, token.ResourceID = named.objectID, named.resourceID
	kept := cacheEntry{token: token, asked: asked, account: f.account}
	if g.over == nil {
		return kept
	}
	handshake := g.over.bridge.Handshake()
	kept.token.Binding = Binding{
		Thumbprint:         g.over.thumbprint,
		TLSVersion:         handshake.VersionName(),
		SignatureAlgorithm: handshake.SignatureName(),
	}
	if g.answer.Confirmation != "" {
		// The token works with the certificate in use only, even if its type is Bearer.
		kept.bound = g.over.current
		a.cfg.Logger.Debug("the token is bound to the certificate", "identity", f.id.Name, "resource", f.key.resource, "type", token.TokenType)
	}
	return kept
}

// keep puts a token into the cache, unless its identity is not in force any more: nobody could ask
// for it.
func (a *Acquirer) keep(f flight, kept cacheEntry) {
	now := a.cfg.Now()
	f.id.note(nil, false, now)
	a.notice(f.id, kept.token.ClientID)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !f.id.retired {
		a.cache.store(f.key, kept, now)
	}
}

// notice drops the tokens of an identity whose client id has changed, as a VM's identity does when
// it is removed and assigned anew: callers of the new identity must not get tokens of the old one.
func (a *Acquirer) notice(id *identityState, clientID string) {
	before, changed := id.becomes(clientID)
	if !changed {
		return
	}
	a.cache.drop(func(key cacheKey) bool { return key.identity == id.Name })
	a.cfg.Logger.Warn("an identity has another client id than before; its tokens are fetched anew", "identity", id.Name, "client_id", clientID, "before", before)
}

// fail makes the caller's error from the error that stopped a flight, and remembers it for as long
// as asking again is of no use. A failure of a request with a claims challenge is not remembered
// for other callers, unless it is a pause that the service asked for.
func (a *Acquirer) fail(f flight, err error) *Error {
	now := a.cfg.Now()
	verdict := verdictOf(err)
	failure := verdict.asError(f.key.identity, err)
	log := a.cfg.Logger
	if f.request != "" {
		log = log.With("request_id", f.request)
	}
	log.Warn("token not obtained", "identity", f.key.identity, "resource", f.key.resource, "kind", failure.Kind, "error", err)
	if f.challenged && failure.Kind != KindThrottled {
		return failure
	}
	f.id.note(err, f.id.ofRequest(verdict), now)
	a.cache.postpone(f.key, now, failure.RetryAfter)
	a.failures.remember(f.key, f.id.client(), failure, now)
	return failure
}
