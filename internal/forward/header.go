package forward

import (
	"net/http"
	"net/textproto"
	"strings"
)

// ofOneConnection are headers about the connection that they come over (RFC 9110, 7.6.1), those of
// proxies and of before RFC 7230 included. net/http makes anew what it needs of them.
var ofOneConnection = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// notOfRequests and notOfAnswers are further headers that are not passed on. Expect is set anew
// where it means something. Alt-Svc would send the caller to a server without us.
var (
	notOfRequests = []string{"Cookie", "Cookie2", "Expect", "Host"}
	notOfAnswers  = []string{"Set-Cookie", "Set-Cookie2", "Alt-Svc", "Clear-Site-Data"}
)

// passedOn returns the headers of a message without those of its connection and some more. The
// values are shared.
func passedOn(from http.Header, without []string) http.Header {
	to := make(http.Header, len(from)+4)
	for name, values := range from {
		to[name] = values
	}
	for _, name := range listed(from, "Connection") {
		delete(to, name)
	}
	for _, name := range ofOneConnection {
		delete(to, name)
	}
	for _, name := range without {
		delete(to, name)
	}
	return to
}

// listed returns the header names that a header lists, in canonical form.
func listed(from http.Header, header string) []string {
	var names []string
	for _, value := range from[header] {
		for name := range strings.SplitSeq(value, ",") {
			names = append(names, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	return names
}

// lists reports whether a header lists a word, without regard to case.
func lists(from http.Header, header, word string) bool {
	for _, value := range from[header] {
		for listed := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(listed), word) {
				return true
			}
		}
	}
	return false
}

// WantsUpgrade returns the protocol that a request wants its connection to speak from then on; ""
// if it wants none. Programs that would like HTTP/2 without TLS (h2c) do without, so that is none.
func WantsUpgrade(r *http.Request) string {
	for _, value := range r.Header["Upgrade"] {
		for protocol := range strings.SplitSeq(value, ",") {
			if protocol = textproto.TrimString(protocol); protocol != "" && !strings.EqualFold(protocol, "h2c") {
				return protocol
			}
		}
	}
	return ""
}

// trailers returns an empty trailer for each that is announced and may be passed on; nil: none.
func trailers(announced http.Header, without []string) http.Header {
	var names http.Header
	for name := range passedOn(announced, without) {
		if names == nil {
			names = http.Header{}
		}
		names[name] = nil
	}
	return names
}
