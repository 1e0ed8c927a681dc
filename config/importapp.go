package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/cloud"
)

// takeApplication imports an app registration.
func (im *Imported) takeApplication(root *settings) error {
	im.Identity = Identity{Name: "app", Application: &Application{}}
	im.apis = apisOf(root, im.section)
	if err := im.takeRegistration(); err != nil {
		return err
	}
	im.takeOptions()
	if err := im.takeCredentials(); err != nil {
		return err
	}
	im.noteAPIs(im.calledBy(root))
	return nil
}

// takeRegistration finds out which application in which tenant of which cloud it is.
func (im *Imported) takeRegistration() error {
	app := im.Identity.Application
	var problems []error
	add := func(setting, format string, args ...any) {
		problems = append(problems, fmt.Errorf(im.in(setting)+": "+format, args...))
	}
	app.ClientID = plainGUID(im.section.text("ClientId"))
	switch {
	case app.ClientID == "":
		add("ClientId", "missing")
	case !isGUID(app.ClientID):
		add("ClientId", "%q is not a GUID", app.ClientID)
	}
	where, setting, err := im.endpoint()
	if err != nil {
		add(setting, "%w", err)
	}
	if where.cloud != CloudPublic {
		app.Cloud = where.cloud
	}
	tenant := im.tenant(where.tenant)
	app.Tenant = tenant
	switch problem := tenantProblem(tenant); {
	case err != nil && tenant == "": // it may be in the part that cannot be read
	case tenant == "":
		add("TenantId", "missing, and neither Authority nor Instance names a tenant")
	case problem != "":
		add("TenantId", "%s", problem)
	case where.tenant != "" && !isMany(where.tenant) && !strings.EqualFold(where.tenant, tenant):
		add(setting, "names the tenant %q, and TenantId %q: take the one away that is not meant", where.tenant, tenant)
	}
	return errors.Join(problems...)
}

// tenant returns TenantId, or else what the endpoint names. An app for many tenants asks for its
// own tokens in its home (TokenAcquisition.ResolveTenant).
func (im *Imported) tenant(ofEndpoint string) string {
	tenant, home := plainGUID(im.section.text("TenantId")), plainGUID(im.section.text("AppHomeTenantId"))
	if tenant == "" {
		tenant = ofEndpoint
	}
	switch {
	case home == "" || strings.EqualFold(home, tenant):
	case strings.EqualFold(tenant, "common") || strings.EqualFold(tenant, "organizations"):
		return home
	default:
		im.note("AppHomeTenantId: left out: it counts where TenantId is common or organizations")
	}
	return tenant
}

// isMany reports whether a name stands for many tenants.
func isMany(tenant string) bool {
	return slices.Contains([]string{"common", "organizations", "consumers"}, strings.ToLower(tenant))
}

// endpoint is a base URL of Entra.
type endpoint struct {
	cloud  string // public if nothing says it
	tenant string // "" if it names none
}

// endpoint returns what Instance says or, where there is none, Authority
// (MergedOptions.ParseAuthorityIfNecessary), and which of them it was.
func (im *Imported) endpoint() (where endpoint, setting string, err error) {
	instance, authority := im.section.text("Instance"), im.section.text("Authority")
	switch {
	case instance != "":
		if authority != "" {
			im.note("Authority: left out: Microsoft.Identity.Web does not look at it where Instance is there")
		}
		where, err = parseEndpoint(instance)
		return where, "Instance", err
	case authority != "":
		where, err = parseEndpoint(authority)
		return where, "Authority", err
	}
	return endpoint{cloud: CloudPublic}, "Instance", nil
}

// parseEndpoint reads a base URL of Entra, as in https://login.microsoftonline.com/, with or
// without a tenant and the protocol's version behind it. Errors do not repeat it.
func parseEndpoint(text string) (endpoint, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return endpoint{}, errors.New("not the https URL of an endpoint, as in https://login.microsoftonline.com/")
	}
	in, known := cloud.OfLoginHost(u.Host)
	if !known {
		return endpoint{}, errors.New("not the endpoint of a cloud that keyagent knows, as in https://login.microsoftonline.com/")
	}
	tenant := strings.Trim(u.Path, "/")
	if n := len(tenant) - len("/v2.0"); n >= 0 && strings.EqualFold(tenant[n:], "/v2.0") {
		tenant = strings.TrimRight(tenant[:n], "/")
	}
	if strings.EqualFold(tenant, "v2.0") {
		tenant = ""
	}
	tenant = plainGUID(tenant)
	if tenant != "" && !isMany(tenant) && tenantProblem(tenant) != "" {
		return endpoint{}, errors.New("the path after the host is not one tenant")
	}
	return endpoint{in.Name, tenant}, nil
}

// plainGUID returns a GUID in its usual form, of whatever .NET reads as one (Guid.Parse: N, D, B,
// P), and other texts as they are.
func plainGUID(text string) string {
	plain := text
	if n := len(text); n > 2 && (text[0] == '{' && text[n-1] == '}' || text[0] == '(' && text[n-1] == ')') {
		plain = strings.TrimSpace(text[1 : n-1])
		if isGUID(plain) {
			return plain
		}
	}
	if parsed, err := uuid.Parse(plain); err == nil && len(plain) == 32 && plain == text {
		return parsed.String()
	}
	return text
}

// takeOptions takes the settings that are about all credentials.
func (im *Imported) takeOptions() {
	region := strings.ToLower(im.section.text("AzureRegion"))
	switch {
	case region == "tryautodetect":
		im.Identity.Application.Region = RegionAuto
	case region == "" || regionPattern.MatchString(region):
		im.Identity.Application.Region = region
	default:
		im.note("AzureRegion: not the name of a region; left out, so that the global endpoint is asked")
	}
	if im.section.has("ClientCapabilities") {
		im.note("ClientCapabilities: whoever asks for a token says what it can do, each time: capabilities=cp1, or keyagent token --capabilities cp1")
	}
	if im.section.has("ClientSecret") {
		im.note("ClientSecret: " + noSecrets)
	}
	known := sectionSettings
	if !im.section.has("ClientCredentials") { // as they were called before
		known = append(slices.Clone(known), "clientcertificates", "clientcredentialsusingmanagedidentity")
	}
	for _, notice := range im.section.unused(im.in(""), known) {
		im.note(notice)
	}
}
