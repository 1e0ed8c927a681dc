package launch

import (
	"fmt"
	"slices"
	"strings"
)

// Family is a kind of programs that look for tokens in the same way.
type Family string

// The families.
const (
	Go         Family = "go"     // azidentity, MSAL
	DotNet     Family = "dotnet" // Azure.Identity, MSAL.NET
	Python     Family = "python" // azure-identity, msal
	JavaScript Family = "js"     // @azure/identity, msal-node
	Java       Family = "java"   // azure-identity
	AzureCLI   Family = "az"
	ADAL       Family = "adal" // programs with adal, of which telegraf is one
	All        Family = "all"
)

// ParseFamilies takes the names of families. No name gives none, which stands for all.
func ParseFamilies(names []string) ([]Family, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var families []Family
	for _, name := range names {
		family := Family(name)
		if _, known := groupsOf(family); !known {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(FamilyNames(), ", "))
		}
		families = append(families, family)
	}
	return families, nil
}

// FamilyNames are the names that [ParseFamilies] takes.
func FamilyNames() []string {
	var names []string
	for _, f := range []Family{All, Go, DotNet, Python, JavaScript, Java, AzureCLI, ADAL} {
		names = append(names, string(f))
	}
	return names
}

// The variables that lead a program to a source of tokens of managed identities, or to another
// protocol there.
const (
	identityEndpoint   = "IDENTITY_ENDPOINT"
	identityHeader     = "IDENTITY_HEADER"
	identityThumbprint = "IDENTITY_SERVER_THUMBPRINT" // with the two above: Service Fabric
	imdsEndpoint       = "IMDS_ENDPOINT"              // with IDENTITY_ENDPOINT: Azure Arc
	msiEndpoint        = "MSI_ENDPOINT"               // alone: Cloud Shell
	msiSecret          = "MSI_SECRET"                 // #nosec G101 -- a name
	podIdentityHost    = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
	siteName           = "APPSETTING_WEBSITE_SITE_NAME" // makes Azure CLI look at MSI_ENDPOINT as App Service has it
)

// sources are all of them.
func sources() []string {
	return []string{identityEndpoint, identityHeader, identityThumbprint, imdsEndpoint, msiEndpoint, msiSecret, podIdentityHost, siteName}
}

// tokenCredentials names the members of DefaultAzureCredential.
const tokenCredentials = "AZURE_TOKEN_CREDENTIALS" // #nosec G101 -- a name

// group are variables that belong together.
type group int

const (
	appService group = iota // the App Service protocol
	older                   // its older form
	imdsHost                // the IMDS protocol at another address
	cli                     // what Azure CLI wants besides
	chain                   // no fall-through to a developer's login
)

// groupsOf returns what a family looks at. Go ignores the address of IMDS, adal everything but the
// older form; Azure CLI has the older form up to 2.70, and MSAL for Python after that.
func groupsOf(f Family) (groups []group, known bool) {
	switch f {
	case Go:
		return []group{appService, chain}, true
	case DotNet, Python, JavaScript, Java:
		return []group{appService, imdsHost, chain}, true
	case AzureCLI:
		return []group{appService, older, cli}, true
	case ADAL:
		return []group{older}, true
	case All:
		return []group{appService, older, imdsHost, cli, chain}, true
	}
	return nil, false
}

// namesOf are the variables of a group that are sources.
func namesOf(g group) []string {
	switch g {
	case appService:
		return []string{identityEndpoint, identityHeader}
	case older:
		return []string{msiEndpoint, msiSecret}
	case imdsHost:
		return []string{podIdentityHost}
	case cli:
		return []string{siteName}
	case chain:
	}
	return nil
}

// wanted returns the groups of some families, each once. No family means all.
func wanted(families []Family) []group {
	if len(families) == 0 {
		families = []Family{All}
	}
	var all []group
	for _, f := range families {
		groups, _ := groupsOf(f)
		all = append(all, groups...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Foreign returns the variables that lead to other sources than those of the families, in
// alphabetical order: a program must not have them.
func Foreign(families []Family) []string {
	names := sources()
	for _, g := range wanted(families) {
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(namesOf(g), name) })
	}
	slices.Sort(names)
	return names
}
