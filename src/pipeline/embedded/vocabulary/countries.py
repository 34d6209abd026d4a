"""Countries of the world, and what is true of them; names and capitals are single words."""

from typing import NamedTuple

from pipeline.embedded.vocabulary import phrases


class Country(NamedTuple):
    """A country with its capital, main language, continent and currency."""

    name: str
    capital: str
    language: str
    continent: str
    currency: str


COUNTRIES: tuple[Country, ...] = tuple(
    Country(*row.split())
    for row in phrases(
        """France Paris French Europe euro, Spain Madrid Spanish Europe euro,
        Italy Rome Italian Europe euro, Germany Berlin German Europe euro,
        Poland Warsaw Polish Europe zloty, Norway Oslo Norwegian Europe krone,
        Sweden Stockholm Swedish Europe krona, Finland Helsinki Finnish Europe euro,
        Denmark Copenhagen Danish Europe krone, Iceland Reykjavik Icelandic Europe krona,
        Greece Athens Greek Europe euro, Portugal Lisbon Portuguese Europe euro,
        Austria Vienna German Europe euro, Ireland Dublin English Europe euro,
        Hungary Budapest Hungarian Europe forint, Romania Bucharest Romanian Europe leu,
        Russia Moscow Russian Europe ruble, Ukraine Kyiv Ukrainian Europe hryvnia,
        Serbia Belgrade Serbian Europe dinar, Croatia Zagreb Croatian Europe euro,
        Albania Tirana Albanian Europe lek, Latvia Riga Latvian Europe euro,
        Estonia Tallinn Estonian Europe euro, Lithuania Vilnius Lithuanian Europe euro,
        Turkey Ankara Turkish Asia lira, Japan Tokyo Japanese Asia yen,
        China Beijing Chinese Asia yuan, Nepal Kathmandu Nepali Asia rupee,
        Vietnam Hanoi Vietnamese Asia dong, Thailand Bangkok Thai Asia baht,
        Iran Tehran Persian Asia rial, Iraq Baghdad Arabic Asia dinar,
        Jordan Amman Arabic Asia dinar, Bangladesh Dhaka Bengali Asia taka,
        Indonesia Jakarta Indonesian Asia rupiah, Pakistan Islamabad Urdu Asia rupee,
        Egypt Cairo Arabic Africa pound, Morocco Rabat Arabic Africa dirham,
        Tunisia Tunis Arabic Africa dinar, Libya Tripoli Arabic Africa dinar,
        Kenya Nairobi Swahili Africa shilling, Somalia Mogadishu Somali Africa shilling,
        Angola Luanda Portuguese Africa kwanza, Brazil Brasilia Portuguese America real,
        Chile Santiago Spanish America peso, Peru Lima Spanish America sol,
        Cuba Havana Spanish America peso, Colombia Bogota Spanish America peso,
        Ecuador Quito Spanish America dollar, Venezuela Caracas Spanish America bolivar,
        Canada Ottawa English America dollar, Jamaica Kingston English America dollar"""
    )
)
