// Package upstream has the rules that the agent's HTTP clients share for services it does not
// control (IMDS, attestation, Entra): bodies are limited, redirects are not followed, foreign text
// cannot forge a log line or repeat a token, waiting ends with the context.
package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/keyagent/keyagent/internal/secret"
)

// MaxBodyBytes limits an answer's body.
const MaxBodyBytes = 1 << 20

// maxTextBytes limits what a foreign body contributes to an error text.
const maxTextBytes = 400

// maxRetryAfter keeps a false header from stopping the agent's requests for good.
const maxRetryAfter = time.Hour

// ErrTooLarge is returned by [ReadBody].
var ErrTooLarge = errors.New("body too large")

// ReadBody reads r to its end, or fails with [ErrTooLarge] after [MaxBodyBytes].
func ReadBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBodyBytes+1))
	if err == nil && len(body) > MaxBodyBytes {
		return nil, fmt.Errorf("%w: over %d bytes", ErrTooLarge, MaxBodyBytes)
	}
	return body, err
}

// RefuseRedirects is an http.Client.CheckRedirect that hands the redirect itself
// to the caller, whose status check then refuses it.
func RefuseRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Product is the name of this client in requests to Microsoft's services.
const Product = "keyagent"

// NameClient puts into a request's headers which client it is, in the form of Microsoft's own
// (MSAL), which their operators look for: x-client-SKU and x-client-Ver.
func NameClient(h http.Header, version string) {
	h.Set("x-client-SKU", Product)
	h.Set("x-client-Ver", version)
}

// Text makes foreign text fit for an error or a log: valid UTF-8, no control or format characters,
// no token or assertion, at most 400 bytes.
func Text(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, secret.Hide(strings.ToValidUTF8(s, "?")))
	if len(s) > maxTextBytes {
		s = strings.ToValidUTF8(s[:maxTextBytes], "") + "…"
	}
	return s
}

// Cause strips the URL that http.Client puts around an error: its query only
// repeats the configuration, and the cause is what an operator needs.
func Cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// TimedOut reports whether err is a time-out on our side.
func TimedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// What net/http says of HTTP/2 connections that ended, in errors without a name.
var lostHTTP2 = []string{"http2: client conn could not be established", "http2: client connection lost", "http2: server sent GOAWAY"}

// ConnectionLost reports whether err says that the connection was reset or closed before there was
// an answer. A TLS alert counts as an answer.
func ConnectionLost(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return false
	}
	for _, lost := range []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return err != nil && slices.ContainsFunc(lostHTTP2, func(text string) bool { return strings.Contains(err.Error(), text) })
}

// RetryAfter reads both forms of the header (RFC 9110, 10.2.3). Nonsense and a
// time that has passed are 0; the longest pause is an hour.
func RetryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(value); err == nil {
		d = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
