package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxImportedCredentials bounds a list that a person wrote.
const maxImportedCredentials = 64

// Imported is what [ImportAppSettings] made of an app's settings.
type Imported struct {
	// Identity is an application. Its name is "app" and may be changed.
	Identity Identity
	// Notices are for the operator, a line each: what was left out, and what is to be
	// done besides. They hold no secret.
	Notices []string

	above   []string   // what YAML says above the identity
	entries [][]string // and above each credential
}

// ImportAppSettings makes an application's identity of its settings for
// Microsoft.Identity.Web: appsettings.json with a section AzureAd, or that section
// alone. Secrets and passwords in it are not read. An error says, a line each, why
// nothing can be used.
//
// Sources: Microsoft.Identity.Web's MicrosoftIdentityApplicationOptions, and
// CredentialDescription of Microsoft.Identity.Abstractions.
func ImportAppSettings(data []byte) (*Imported, error) {
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("the settings have more than %d bytes", maxFileBytes)
	}
	section, err := azureAd(data)
	if err != nil {
		return nil, err
	}
	app := &Application{}
	im := &Imported{Identity: Identity{Name: "app", Application: app}}
	if err := app.takeRegistration(section); err != nil {
		return nil, err
	}
	im.takeOptions(section)
	if err := im.takeCredentials(section); err != nil {
		return nil, err
	}
	if _, err := im.YAML(); err != nil {
		return nil, err
	}
	return im, nil
}

// YAML returns a block identities that [Parse] accepts as part of a file, with the
// notices as comments. It fails if the identity's name was changed to one that an
// identity cannot have.
func (im *Imported) YAML() ([]byte, error) {
	var file yaml.Node
	block := struct {
		Identities []Identity `yaml:"identities"`
	}{[]Identity{im.Identity}}
	if err := file.Encode(block); err != nil {
		return nil, fmt.Errorf("encoding the identity: %w", err)
	}
	identity := member(&file, "identities").Content[0]
	identity.HeadComment = strings.Join(im.above, "\n")
	credentials := member(member(identity, "application"), "credentials")
	for i, notices := range im.entries {
		credentials.Content[i].HeadComment = strings.Join(notices, "\n")
	}
	text, err := encode(&file)
	if err != nil {
		return nil, err
	}
	if _, err := Parse("the result", text); err != nil {
		return nil, err
	}
	return text, nil
}

// loginHosts are the hosts of Entra, with the names that they had before, by cloud.
var loginHosts = map[string]string{
	"login.microsoftonline.com":        CloudPublic,
	"login.microsoft.com":              CloudPublic,
	"login.windows.net":                CloudPublic,
	"sts.windows.net":                  CloudPublic,
	"login.microsoftonline.us":         CloudUSGov,
	"login.usgovcloudapi.net":          CloudUSGov,
	"login.partner.microsoftonline.cn": CloudChina,
	"login.chinacloudapi.cn":           CloudChina,
	"login.sovcloud-identity.fr":       CloudFrance,
	"login.sovcloud-identity.de":       CloudGermany,
	"login.sovcloud-identity.sg":       CloudSingapore,
}

func (a *Application) takeRegistration(section settings) error {
	a.Tenant, a.ClientID = section.text("tenantid"), section.text("clientid")
	var problems []error
	if problem := tenantProblem(a.Tenant); problem != "" {
		problems = append(problems, errors.New("AzureAd.TenantId: "+problem))
	}
	if !isGUID(a.ClientID) {
		problems = append(problems, fmt.Errorf("AzureAd.ClientId: %q is not a GUID", a.ClientID))
	}
	instance := section.text("instance")
	if instance == "" {
		return errors.Join(problems...)
	}
	u, err := url.Parse(instance)
	cloud, known := "", false
	if err == nil {
		cloud, known = loginHosts[strings.ToLower(u.Host)]
	}
	if !known {
		problems = append(problems, errors.New("AzureAd.Instance: not the endpoint of a cloud that keyagent knows, as in https://login.microsoftonline.com/"))
	}
	if cloud != CloudPublic {
		a.Cloud = cloud
	}
	return errors.Join(problems...)
}

// takeOptions takes what is about all credentials.
func (im *Imported) takeOptions(section settings) {
	region := strings.ToLower(section.text("azureregion"))
	switch {
	case region == "tryautodetect":
		im.Identity.Application.Region = RegionAuto
	case region == "" || regionPattern.MatchString(region):
		im.Identity.Application.Region = region
	default:
		im.note("AzureRegion: not the name of a region; left out, so that the global endpoint is asked")
	}
	if section.has("clientcapabilities") {
		im.note("ClientCapabilities: whoever asks for a token says what it can do, each time: capabilities=cp1, or keyagent token --capabilities cp1")
	}
	if section.has("clientsecret") {
		im.note("ClientSecret: " + noSecrets)
	}
	known := sectionSettings
	if !section.has("clientcredentials") {
		known = append(slices.Clone(known), "clientcertificates") // as it was called before
	}
	for _, notice := range section.unused("AzureAd", known) {
		im.note(notice)
	}
}

const noSecrets = "left out: a secret can be copied, and keyagent takes none; register a certificate or a federated credential instead"

// note keeps a notice that is about no credential that is there.
func (im *Imported) note(text string) {
	im.Notices = append(im.Notices, text)
	im.above = append(im.above, text)
}

func (im *Imported) takeCredentials(section settings) error {
	list := "ClientCredentials"
	if !section.has("clientcredentials") && section.has("clientcertificates") {
		list = "ClientCertificates"
	}
	elements := section.list(strings.ToLower(list))
	if len(elements) > maxImportedCredentials {
		return fmt.Errorf("AzureAd.%s: more than %d entries", list, maxImportedCredentials)
	}
	for i, element := range elements {
		at := fmt.Sprintf("%s[%d]", list, i)
		entry, err := members(element)
		if err != nil {
			im.note(fmt.Sprintf("%s: left out: %v", at, err))
			continue
		}
		im.takeCredential(at, entry)
	}
	if len(im.Identity.Application.Credentials) > 0 {
		return nil
	}
	problems := []error{errors.New("AzureAd has no credential that keyagent can use")}
	for _, notice := range im.Notices {
		problems = append(problems, errors.New(notice))
	}
	return errors.Join(problems...)
}

// sourceTypes are the values of SourceType, at their numbers.
var sourceTypes = []string{
	"Certificate", "KeyVault", "Base64Encoded", "Path", "StoreWithThumbprint", "StoreWithDistinguishedName", "ClientSecret",
	"SignedAssertionFromManagedIdentity", "SignedAssertionFilePath", "SignedAssertionFromVault", "AutoDecryptKeys",
	"CustomSignedAssertion", "ManagedCertificate", "StoreWithSubjectName",
}

// sourceType returns the name of an entry's SourceType, or nothing for one that is not
// known.
func sourceType(entry settings) string {
	given := entry.text("sourcetype")
	if n, err := strconv.Atoi(given); err == nil && n >= 0 && n < len(sourceTypes) {
		return sourceTypes[n]
	}
	i := slices.IndexFunc(sourceTypes, func(known string) bool { return strings.EqualFold(known, given) })
	if i < 0 {
		return ""
	}
	return sourceTypes[i]
}

func (im *Imported) takeCredential(at string, entry settings) {
	kind := sourceType(entry)
	if kind == "" {
		im.note(at + ": left out: its SourceType is not known")
		return
	}
	at += " (" + kind + ")"
	switch kind {
	case "SignedAssertionFromManagedIdentity":
		im.takeManagedIdentity(at, entry)
	case "Certificate", "KeyVault", "Base64Encoded", "Path", "StoreWithThumbprint", "StoreWithDistinguishedName", "StoreWithSubjectName":
		im.takeCertificate(at, entry)
	case "SignedAssertionFilePath":
		im.takeFile(at, entry)
	case "CustomSignedAssertion":
		im.note(at + ": left out: if it is the token of another identity (OIDC), configure that as an identity of its own, and add an entry with source: oidc, identity: NAME")
	case "ClientSecret":
		im.note(at + ": " + noSecrets)
	case "SignedAssertionFromVault":
		im.note(at + ": left out: keyagent signs with keys in this VM's TPM, not with those of a Key Vault; use a certificate or a managed identity")
	default:
		im.note(at + ": left out: keyagent has nothing like it")
	}
}

// publicAudience is what Microsoft.Identity.Web asks for in every cloud.
const publicAudience = "api://AzureADTokenExchange"

func (im *Imported) takeManagedIdentity(at string, entry settings) {
	cloud := im.Identity.Application.Cloud
	c := Credential{
		Source:          SourceManagedIdentity,
		ManagedIdentity: &ManagedIdentitySelector{ClientID: entry.text("managedidentityclientid")},
		Audience:        strings.TrimSuffix(entry.text("tokenexchangeurl"), "/.default"),
	}
	var notices []string
	if c.Audience == "" && cloud != "" {
		c.Audience = publicAudience
		notices = append(notices, at+": no TokenExchangeUrl: the audience is that of the public cloud, as Microsoft.Identity.Web takes it; "+
			"see whether the federated credential in this cloud names another")
	}
	if c.Audience == publicAudience && cloud == "" {
		c.Audience = ""
	}
	if entry.has("tokenexchangeauthority") {
		notices = append(notices, at+": TokenExchangeAuthority left out: this VM's own cloud issues the assertion")
	}
	im.keep(at, entry, c, notices)
}

func (im *Imported) takeCertificate(at string, entry settings) {
	certificates := 1
	for _, c := range im.Identity.Application.Credentials {
		if c.Source == SourceCertificate {
			certificates++
		}
	}
	key := numbered("app", certificates)
	im.keep(at, entry, Credential{Source: SourceCertificate, Key: key}, []string{
		at + ": its private key stays where it is: make another in the TPM (keyagent key create " + key +
			"), a certificate for it (keyagent key self-sign " + key + " --subject CN=" + key + "), and register that with the application",
	})
}

func (im *Imported) takeFile(at string, entry settings) {
	var notices []string
	if entry.flag("useboundcredential") {
		notices = append(notices, at+": UseBoundCredential has no meaning: an assertion in a file can be copied, and no key stands behind it")
	}
	im.keep(at, entry, Credential{Source: SourceAssertionFile, Path: entry.text("signedassertionfilediskpath"), Bound: BoundNever}, notices)
}

// keep adds an entry if it would be accepted in a file.
func (im *Imported) keep(at string, entry settings, c Credential, notices []string) {
	switch {
	case c.Bound != "":
	case entry.flag("useboundcredential"):
		c.Bound = BoundRequire
	default:
		c.Bound = BoundNever
		notices = append(notices, at+": UseBoundCredential is not true, hence bound: never; require makes what is copied of it worthless")
	}
	app := im.Identity.Application
	whole, f := c, findings{}
	whole.Name = "imported"
	whole.complete(cmp.Or(app.Cloud, CloudPublic))
	if whole.check(&f, at); len(f) > 0 {
		im.note("left out: " + strings.Join(f, "; "))
		return
	}
	notices = append(notices, entry.unused(at, entrySettings)...)
	app.Credentials = append(app.Credentials, c)
	im.entries = append(im.entries, notices)
	im.Notices = append(im.Notices, notices...)
}
