"""English words with French and Chinese: nouns of things one can see, adjectives, places.

No word is spelt alike in English and in French, and no Chinese noun is a part of another, so that a
word tells its language and a sentence what it speaks of.
"""

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun in three languages, and whether it is feminine in French."""

    english: str
    french: str
    chinese: str
    feminine: bool


class Adjective(NamedTuple):
    """An adjective in three languages.

    Attributes:
        french: its masculine.
        feminine: of the French one.
        chinese: without 的.
        before: whether the French one stands before its noun.
    """

    english: str
    french: str
    feminine: str
    chinese: str
    before: bool = False


class Place(NamedTuple):
    """Where something is, in three languages."""

    english: str
    french: str
    chinese: str


def spoken(word: Noun | Adjective, language: int) -> str:
    """A word in English (0), French (1) or Chinese (2), without its article."""
    return (word.english, word.french, word.chinese)[language]


def _nouns(table: str) -> tuple[Noun, ...]:
    return tuple(
        Noun(english, french, chinese, gender == "f")
        for english, french, gender, chinese in (row.split() for row in table.split(","))
    )


ANIMALS = _nouns(
    """
    cat chat m 猫, dog chien m 狗, horse cheval m 马, cow vache f 牛, sheep mouton m 羊,
    pig cochon m 猪, rabbit lapin m 兔子, mouse souris f 老鼠, wolf loup m 狼, fox renard m 狐狸,
    bear ours m 熊, monkey singe m 猴子, bird oiseau m 鸟, fish poisson m 鱼, duck canard m 鸭子,
    hen poule f 母鸡, frog grenouille f 青蛙, snake serpent m 蛇, bee abeille f 蜜蜂,
    butterfly papillon m 蝴蝶, spider araignée f 蜘蛛, turtle tortue f 乌龟, deer cerf m 鹿,
    squirrel écureuil m 松鼠, donkey âne m 驴
    """
)
THINGS = _nouns(
    """
    apple pomme f 苹果, pear poire f 梨, plum prune f 李子, cherry cerise f 樱桃,
    banana banane f 香蕉, lemon citron m 柠檬, peach pêche f 桃子, strawberry fraise f 草莓,
    bread pain m 面包, cheese fromage m 奶酪, egg œuf m 鸡蛋, soup soupe f 汤, cake gâteau m 蛋糕,
    water eau f 水, salt sel m 盐, sugar sucre m 糖, honey miel m 蜂蜜, onion oignon m 洋葱,
    mushroom champignon m 蘑菇, tea thé m 茶, wine vin m 酒,
    book livre m 书, letter lettre f 信, key clé f 钥匙, door porte f 门, window fenêtre f 窗户,
    chair chaise f 椅子, lamp lampe f 灯, bed lit m 床, clock horloge f 钟, mirror miroir m 镜子,
    basket panier m 篮子, bucket seau m 桶, bowl bol m 碗, plate assiette f 盘子, cup tasse f 杯子,
    bottle bouteille f 瓶子, box boîte f 盒子, knife couteau m 刀, spoon cuillère f 勺子,
    fork fourchette f 叉子, hammer marteau m 锤子, shirt chemise f 衬衫, hat chapeau m 帽子,
    shoe chaussure f 鞋, coat manteau m 外套, glove gant m 手套, scarf écharpe f 围巾,
    skirt jupe f 裙子, boat bateau m 船, bicycle vélo m 单车, car voiture f 汽车,
    plane avion m 飞机, paper papier m 纸, pen stylo m 笔, map carte f 地图,
    bell cloche f 铃, flag drapeau m 旗,
    ring bague f 戒指, crown couronne f 王冠, candle bougie f 蜡烛, carpet tapis m 地毯,
    drum tambour m 鼓, violin violon m 提琴, umbrella parapluie m 雨伞, rope corde f 绳子,
    ladder échelle f 梯子,
    tree arbre m 树, flower fleur f 花, leaf feuille f 叶子, stone pierre f 石头,
    mountain montagne f 山, river rivière f 河, sea mer f 大海, moon lune f 月亮,
    star étoile f 星星, sun soleil m 太阳, cloud nuage m 云, snow neige f 雪, island île f 岛,
    house maison f 房子, castle château m 城堡, church église f 教堂, school école f 学校,
    bridge pont m 桥, street rue f 街道, tower tour f 塔, shop magasin m 商店, farm ferme f 农场,
    station gare f 车站, town ville f 城市, wall mur m 墙, roof toit m 屋顶, beach plage f 海滩
    """
)
NOUNS = (*ANIMALS, *THINGS)

COLOURS = (
    Adjective("red", "rouge", "rouge", "红色"),
    Adjective("blue", "bleu", "bleue", "蓝色"),
    Adjective("green", "vert", "verte", "绿色"),
    Adjective("yellow", "jaune", "jaune", "黄色"),
    Adjective("black", "noir", "noire", "黑色"),
    Adjective("white", "blanc", "blanche", "白色"),
    Adjective("grey", "gris", "grise", "灰色"),
    Adjective("brown", "brun", "brune", "棕色"),
    Adjective("purple", "violet", "violette", "紫色"),
)
QUALITIES = (
    Adjective("small", "petit", "petite", "小", before=True),
    Adjective("big", "grand", "grande", "大", before=True),
    Adjective("pretty", "joli", "jolie", "漂亮", before=True),
    Adjective("good", "bon", "bonne", "好", before=True),
    Adjective("bad", "mauvais", "mauvaise", "坏", before=True),
    Adjective("heavy", "lourd", "lourde", "重"),
    Adjective("light", "léger", "légère", "轻"),
    Adjective("clean", "propre", "propre", "干净"),
    Adjective("dirty", "sale", "sale", "脏"),
    Adjective("strong", "fort", "forte", "强"),
    Adjective("slow", "lent", "lente", "慢"),
    Adjective("fast", "rapide", "rapide", "快"),
    Adjective("round", "rond", "ronde", "圆"),
    Adjective("new", "neuf", "neuve", "新"),
    Adjective("old", "ancien", "ancienne", "旧"),
    Adjective("cold", "froid", "froide", "冷"),
    Adjective("hot", "chaud", "chaude", "热"),
    Adjective("wet", "mouillé", "mouillée", "湿"),
    Adjective("soft", "doux", "douce", "软"),
    Adjective("hard", "dur", "dure", "硬"),
    Adjective("expensive", "cher", "chère", "贵"),
    Adjective("strange", "étrange", "étrange", "奇怪"),
)
ADJECTIVES = (*COLOURS, *QUALITIES)

PLACES = (
    Place("in the garden", "dans le jardin", "院子里"),
    Place("in the kitchen", "dans la cuisine", "厨房里"),
    Place("in the forest", "dans la forêt", "森林里"),
    Place("in the park", "dans le parc", "公园里"),
    Place("behind the museum", "derrière le musée", "博物馆后面"),
)
DOINGS = (
    ("sleeps", "dort", "在睡觉"),
    ("eats", "mange", "在吃饭"),
    ("runs", "court", "在跑步"),
    ("waits", "attend", "在等待"),
)
"""What animals do, in the three languages."""
