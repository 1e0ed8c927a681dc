package acquire

import (
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/acquire/entra"
)

// VerdictLine is everything that an error means, in one line.
func VerdictLine(err error) string {
	l := LicenceOf(err)
	e := classify("vm", err)
	why, rejected := certificateRejected(err)
	_, weak := errors.AsType[*floorError](err)
	rest := missingRest
	switch {
	case weak, entra.ReactionTo(err) == entra.ReactionUnboundResource:
		rest = 0
	case CannotBeBound(err):
		rest = rejectedRest
	}
	kind, hint := e.Kind, e.Hint
	return fmt.Sprintf("row=%q next=%v weaker=%v once=%v kind=%s after=%v claims=%q request=%v local=%v passing=%v rest=%v replace=%q/%v pair=%v hint=%q",
		l.Row, l.Next, l.Weaker, l.Once, kind, e.RetryAfter, e.Claims, ofRequest(e), costsNothing(err), notForNow(err), rest, why, rejected, pairRejected(err), hint)
}
